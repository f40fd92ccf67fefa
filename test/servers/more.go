package main

// more are daemons that have to be told more, and servers of usual frameworks.
func more() []server {
	return append(append(network(), small()...), frameworks()...)
}

// network are servers of protocols.
func network() []server {
	return []server{
		{
			name: "BIND", pkg: "bind9", version: []string{"named", "-v"},
			files: map[string]string{"named.conf": `options {
    directory "{dir}"; pid-file none; session-keyfile none; recursion no; managed-keys-directory "{dir}";
    listen-on port {port} { any; }; listen-on-v6 port {port} { any; };
};
controls { };
`},
			command: []string{"named", "-g", "-c", "{dir}/named.conf"},
		},
		{
			name: "coturn", pkg: "coturn", version: []string{"turnserver", "--version"},
			command: []string{"turnserver", "-n", "-L", "127.0.0.1", "-p", "{port}", "--no-tls", "--no-dtls", "--no-cli", "--no-auth", "--no-udp", "--pidfile={dir}/pid", "--userdb={dir}/db", "--log-file=stdout"},
		},
		{
			name: "etcd", pkg: "etcd-server", version: []string{"etcd", "--version"},
			command: []string{"etcd", "--data-dir={dir}/data", "--listen-client-urls=http://0.0.0.0:{port}", "--advertise-client-urls=http://127.0.0.1:{port}", "--listen-peer-urls=http://127.0.0.1:7001"},
		},
		{
			name: "Exim", pkg: "exim4-daemon-light", version: []string{"exim4", "-bV"},
			files:   map[string]string{"exim.conf": "primary_hostname = localhost\nspool_directory = {dir}\nlog_file_path = {dir}/%slog\nlocal_interfaces = <; 0.0.0.0 ; ::0\ndaemon_smtp_ports = {port}\npid_file_path = {dir}/pid\n"},
			setup:   [][]string{{"chown", "root:root", "{dir}/exim.conf"}, {"chmod", "777", "{dir}"}},
			command: []string{"exim4", "-C", "{dir}/exim.conf", "-bdf"},
		},
		{
			name: "Knot", pkg: "knot", version: []string{"knotd", "--version"},
			files:   map[string]string{"knot.conf": "server:\n  rundir: {dir}\n  user: root:root\n  listen: [ 0.0.0.0@{port}, \"::@{port}\" ]\ndatabase:\n  storage: {dir}\n"},
			command: []string{"knotd", "-c", "{dir}/knot.conf"},
		},
		{
			name: "MariaDB", pkg: "mariadb-server", version: []string{"mariadbd", "--version"},
			setup:   [][]string{{"mariadb-install-db", "--no-defaults", "--user=root", "--datadir={dir}/data", "--skip-test-db"}},
			command: []string{"mariadbd", "--no-defaults", "--user=root", "--datadir={dir}/data", "--socket={dir}/s", "--pid-file={dir}/pid", "--bind-address=*", "--port={port}"},
		},
		{
			name: "munin-node", pkg: "munin-node", version: []string{"dpkg-query", "-Wf", "${Version}", "munin-node"},
			files:   map[string]string{"munin.conf": "host *\nport {port}\nbackground 0\nsetsid 0\nuser root\ngroup root\nlog_file {dir}/log\npid_file {dir}/pid\nallow ^.*$\n"},
			command: []string{"munin-node", "--config", "{dir}/munin.conf"},
		},
		{
			name: "ngIRCd", pkg: "ngircd", version: []string{"ngircd", "--version"},
			files:   map[string]string{"ngircd.conf": "[Global]\nName = irc.example.net\nInfo = x\nAdminEMail = a@example.net\nPorts = {port}\nServerUID = root\nServerGID = root\n"},
			command: []string{"ngircd", "-n", "-f", "{dir}/ngircd.conf"},
		},
		{
			name: "NSD", pkg: "nsd", version: []string{"nsd", "-v"},
			files:   map[string]string{"nsd.conf": "server:\n  ip-address: 0.0.0.0@{port}\n  ip-address: ::0@{port}\n  username: \"\"\n  database: \"\"\n  zonesdir: {dir}\n  pidfile: {dir}/pid\n  xfrdfile: {dir}/xfrd\n  xfrdir: {dir}\n  zonelistfile: {dir}/zones\n"},
			command: []string{"nsd", "-d", "-c", "{dir}/nsd.conf"},
		},
		{
			name: "PgBouncer", pkg: "pgbouncer", version: []string{"pgbouncer", "--version"},
			files:   map[string]string{"p.ini": "[databases]\n[pgbouncer]\nlisten_addr = *\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"},
			setup:   [][]string{{"chmod", "-R", "a+rX", "{dir}"}},
			command: []string{"pgbouncer", "-u", "nobody", "{dir}/p.ini"},
		},
		{
			name: "slapd", pkg: "slapd", version: []string{"slapd", "-VV"},
			files:   map[string]string{"slapd.conf": "pidfile {dir}/pid\n"},
			command: []string{"slapd", "-d", "0", "-h", "ldap://:{port}/", "-f", "{dir}/slapd.conf"},
		},
		{
			name: "stunnel", pkg: "stunnel4", version: []string{"stunnel4", "-version"},
			setup:   [][]string{{"openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=x", "-keyout", "{dir}/key", "-out", "{dir}/cert"}},
			files:   map[string]string{"s.conf": "foreground = yes\npid =\n[x]\naccept = {port}\nconnect = 127.0.0.1:1\ncert = {dir}/cert\nkey = {dir}/key\n"},
			command: []string{"stunnel4", "{dir}/s.conf"},
		},
		{
			name: "Tor SocksPort", pkg: "tor", version: []string{"tor", "--version"},
			files:   map[string]string{"torrc": "SocksPort 0.0.0.0:{port}\nDataDirectory {dir}/data\n"},
			command: []string{"tor", "--defaults-torrc", "/dev/null", "-f", "{dir}/torrc"},
		},
		{
			name: "unbound", pkg: "unbound", version: []string{"unbound", "-V"},
			files:   map[string]string{"u.conf": "server:\n  interface: 0.0.0.0@{port}\n  interface: ::0@{port}\n  username: \"\"\n  chroot: \"\"\n  directory: {dir}\n  pidfile: {dir}/pid\n  use-syslog: no\n  module-config: iterator\n  do-daemonize: no\nremote-control:\n  control-enable: no\n"},
			command: []string{"unbound", "-d", "-c", "{dir}/u.conf"},
		},
		{
			name: "Varnish", pkg: "varnish", version: []string{"varnishd", "-V"},
			command: []string{"varnishd", "-F", "-j", "none", "-n", "{dir}/v", "-b", "none", "-a", ":{port}"},
		},
		{
			name: "vsftpd, listen", pkg: "vsftpd", version: []string{"sh", "-c", "vsftpd -v 0>&1"},
			files:   map[string]string{"v.conf": "listen=YES\nbackground=NO\nlisten_port={port}\nsecure_chroot_dir={dir}\nseccomp_sandbox=NO\n"},
			command: []string{"vsftpd", "{dir}/v.conf"},
		},
		{
			name: "vsftpd, listen_ipv6", pkg: "vsftpd", version: []string{"sh", "-c", "vsftpd -v 0>&1"},
			files:   map[string]string{"v.conf": "listen=NO\nlisten_ipv6=YES\nbackground=NO\nlisten_port={port}\nsecure_chroot_dir={dir}\nseccomp_sandbox=NO\n"},
			command: []string{"vsftpd", "{dir}/v.conf"},
		},
		{
			name: "Zabbix agent", pkg: "zabbix-agent", version: []string{"zabbix_agentd", "-V"},
			files:   map[string]string{"z.conf": "Server=127.0.0.1,::1\nListenPort={port}\nAllowRoot=1\nLogType=console\nPidFile={dir}/pid\nHostname=x\n"},
			command: []string{"zabbix_agentd", "-f", "-c", "{dir}/z.conf"},
		},
	}
}

// small are tools and proxies.
func small() []server {
	return []server{
		{
			name: "Dante", pkg: "dante-server", version: []string{"danted", "-v"},
			files:   map[string]string{"d.conf": "logoutput: stderr\ninternal: 0.0.0.0 port = {port}\nexternal: lo\nsocksmethod: none\nclientmethod: none\n"},
			command: []string{"danted", "-f", "{dir}/d.conf", "-p", "{dir}/pid"},
		},
		{name: "epmd", pkg: "erlang-base", version: []string{"dpkg-query", "-Wf", "${Version}", "erlang-base"}, command: []string{"epmd", "-port", "{port}"}},
		{name: "gdbserver", pkg: "gdbserver", version: []string{"gdbserver", "--version"}, command: []string{"gdbserver", ":{port}", "/bin/cat"}},
		{name: "gearmand", pkg: "gearman-job-server", version: []string{"gearmand", "--version"}, command: []string{"gearmand", "-u", "root", "-l", "stderr", "-p", "{port}"}},
		{
			name: "inetd (OpenBSD)", pkg: "openbsd-inetd", version: []string{"dpkg-query", "-Wf", "${Version}", "openbsd-inetd"},
			files:   map[string]string{"i.conf": "{port} stream tcp nowait root /bin/cat cat\n{port} stream tcp6 nowait root /bin/cat cat\n"},
			command: []string{"inetd", "-i", "{dir}/i.conf"},
		},
		{name: "microsocks", pkg: "microsocks", version: []string{"dpkg-query", "-Wf", "${Version}", "microsocks"}, command: []string{"microsocks", "-p", "{port}"}},
		{name: "mini_httpd", pkg: "mini-httpd", version: []string{"mini_httpd", "-V"}, command: []string{"mini_httpd", "-D", "-p", "{port}", "-d", "{dir}"}},
		{name: "nbd-server", pkg: "nbd-server", version: []string{"nbd-server", "-V"}, setup: [][]string{{"truncate", "-s", "1M", "{dir}/disk"}}, command: []string{"nbd-server", "-d", "{port}", "{dir}/disk"}},
		{name: "ncat -lk", pkg: "ncat", version: []string{"ncat", "--version"}, command: []string{"ncat", "-lk", "{port}"}},
		{name: "netcat (OpenBSD) -lk", pkg: "netcat-openbsd", version: []string{"dpkg-query", "-Wf", "${Version}", "netcat-openbsd"}, command: []string{"nc.openbsd", "-lk", "{port}"}},
		{name: "netcat (traditional) -l", pkg: "netcat-traditional", version: []string{"dpkg-query", "-Wf", "${Version}", "netcat-traditional"}, command: []string{"nc.traditional", "-l", "-p", "{port}"}},
		{name: "Pen", pkg: "pen", version: []string{"dpkg-query", "-Wf", "${Version}", "pen"}, command: []string{"pen", "-f", "{port}", "127.0.0.1:1"}},
		{name: "Postgrey", pkg: "postgrey", version: []string{"postgrey", "--version"}, command: []string{"postgrey", "--inet={port}", "--dbdir={dir}", "--user=root", "--group=root"}},
		{
			name: "Privoxy", pkg: "privoxy", version: []string{"privoxy", "--version"},
			files:   map[string]string{"p.conf": "listen-address 0.0.0.0:{port}\nlogdir {dir}\n"},
			command: []string{"privoxy", "--no-daemon", "{dir}/p.conf"},
		},
		{
			name: "rinetd", pkg: "rinetd", version: []string{"rinetd", "-v"},
			files:   map[string]string{"r.conf": "0.0.0.0 {port} 127.0.0.1 1\n"},
			command: []string{"rinetd", "-f", "-c", "{dir}/r.conf"},
		},
		{
			name: "rsyslog imtcp", pkg: "rsyslog", version: []string{"rsyslogd", "-v"},
			files:   map[string]string{"r.conf": "module(load=\"imtcp\")\ninput(type=\"imtcp\" port=\"{port}\")\n*.* {dir}/log\n"},
			command: []string{"rsyslogd", "-n", "-i", "{dir}/pid", "-f", "{dir}/r.conf"},
		},
		{name: "sslh", pkg: "sslh", version: []string{"sslh", "-V"}, command: []string{"sslh-select", "-f", "-p", "0.0.0.0:{port}", "--ssh", "127.0.0.1:1"}},
		{name: "svnserve", pkg: "subversion", version: []string{"svnserve", "--version"}, command: []string{"svnserve", "-d", "--foreground", "-r", "{dir}", "--listen-port", "{port}"}},
		{name: "tcpserver", pkg: "ucspi-tcp", version: []string{"dpkg-query", "-Wf", "${Version}", "ucspi-tcp"}, command: []string{"tcpserver", "-HRl0", "0", "{port}", "cat"}},
		{name: "tcpsvd", pkg: "ipsvd", version: []string{"dpkg-query", "-Wf", "${Version}", "ipsvd"}, command: []string{"tcpsvd", "0", "{port}", "cat"}},
		{name: "webfsd", pkg: "webfs", version: []string{"dpkg-query", "-Wf", "${Version}", "webfs"}, command: []string{"webfsd", "-F", "-p", "{port}", "-r", "{dir}"}},
	}
}

const application = "def application(environ, start):\n    start('200 OK', [])\n    return [b'x']\n"

const python = "/usr/bin/python3"

// pythonPackage writes the version of a distribution of Python.
func pythonPackage(name string) []string {
	return []string{python, "-c", "from importlib.metadata import version; print(version('" + name + "'))"}
}

// frameworks are servers of languages.
func frameworks() []server {
	app := map[string]string{"app.py": application}
	return []server{
		{
			name: "aiohttp run_app", pkg: "python3-aiohttp", version: pythonPackage("aiohttp"),
			command: []string{python, "-c", "from aiohttp import web; web.run_app(web.Application(), port={port})"},
		},
		{
			name: "cheroot", pkg: "python3-cheroot", version: pythonPackage("cheroot"), files: app,
			command: []string{python, "-m", "cheroot", "--bind", "0.0.0.0:{port}", "app:application"},
		},
		{
			name: "gRPC for Python", pkg: "python3-grpcio", version: pythonPackage("grpcio"),
			command: []string{python, "-c", "import grpc; from concurrent import futures; s = grpc.server(futures.ThreadPoolExecutor()); s.add_insecure_port('0.0.0.0:{port}'); s.start(); s.wait_for_termination()"},
		},
		{name: "Gunicorn", pkg: "gunicorn", version: []string{"gunicorn", "--version"}, files: app, command: []string{"gunicorn", "-b", "[::]:{port}", "app:application"}},
		{
			name: "LuaSocket bind", pkg: "lua5.4 lua-socket", version: []string{"lua5.4", "-e", "print(require('socket')._VERSION)"},
			command: []string{"lua5.4", "-e", "local s = assert(require('socket').bind('*', {port})); local c = {}; while true do c[#c + 1] = s:accept() end"},
		},
		{name: "Node.js --inspect", pkg: "nodejs", version: []string{"node", "--version"}, command: []string{"node", "--inspect=0.0.0.0:{port}", "-e", "setInterval(() => {}, 1000)"}},
		{
			name: "Perl IO::Socket::IP", pkg: "perl", version: []string{"perl", "-e", `printf "%vd", $^V`},
			command: []string{"perl", "-MIO::Socket::IP", "-e", "my $l = IO::Socket::IP->new(Listen => 5, LocalHost => '::', LocalPort => {port}) or die $@; my @c; while (my $c = $l->accept) { push @c, $c }"},
		},
		{
			name: "PHP stream_socket_server", pkg: "php8.2-cli", version: []string{"php", "--version"},
			command: []string{"php", "-r", "$l = stream_socket_server('tcp://[::]:{port}') or exit(1); $c = []; while (true) { $c[] = stream_socket_accept($l, 1000); }"},
		},
		{
			name: "php-fpm", pkg: "php8.2-fpm", version: []string{"php-fpm8.2", "--version"},
			files:   map[string]string{"fpm.conf": "[global]\nerror_log = /dev/stderr\n[www]\nlisten = {port}\nuser = nobody\npm = static\npm.max_children = 1\n"},
			command: []string{"php-fpm8.2", "-F", "-y", "{dir}/fpm.conf"},
		},
		{
			name: "Puma", pkg: "puma", version: []string{"puma", "--version"},
			files:   map[string]string{"config.ru": "run lambda { |env| [200, {}, ['x']] }\n"},
			command: []string{"puma", "-b", "tcp://[::]:{port}"},
		},
		{name: "pyzmq", pkg: "python3-zmq", version: pythonPackage("pyzmq"), command: []string{python, "-c", "import zmq, time; s = zmq.Context().socket(zmq.REP); s.bind('tcp://*:{port}'); time.sleep(1000)"}},
		{name: "Tarantool", pkg: "tarantool", version: []string{"tarantool", "--version"}, files: map[string]string{"t.lua": "box.cfg{listen = {port}, work_dir = '{dir}'}\n"}, command: []string{"tarantool", "{dir}/t.lua"}},
		{
			name: "Tornado", pkg: "python3-tornado", version: pythonPackage("tornado"),
			command: []string{python, "-c", "import tornado.web, tornado.ioloop; tornado.web.Application().listen({port}); tornado.ioloop.IOLoop.current().start()"},
		},
		{name: "Twisted web", pkg: "python3-twisted", version: pythonPackage("twisted"), command: []string{"twistd3", "--nodaemon", "--pidfile=", "web", "--listen", "tcp:{port}"}},
		{
			name: "Uvicorn", pkg: "uvicorn", version: pythonPackage("uvicorn"),
			files:   map[string]string{"app.py": "async def application(scope, receive, send): pass\n"},
			command: []string{"uvicorn", "--host", "::", "--port", "{port}", "app:application"},
		},
		{name: "uWSGI socket", pkg: "uwsgi-core", version: []string{"uwsgi", "--version"}, command: []string{"uwsgi", "--master", "--die-on-term", "--socket", "[::]:{port}"}},
		{name: "waitress", pkg: "python3-waitress", version: pythonPackage("waitress"), files: app, command: []string{"waitress-serve", "--port={port}", "app:application"}},
	}
}
