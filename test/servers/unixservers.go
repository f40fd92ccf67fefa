package main

// unixServers are servers on the Unix socket {dir}/s. self is this program.
func unixServers(self string) []server {
	return append(unixDaemons(), unixLanguages(self)...)
}

func unixDaemons() []server {
	app := map[string]string{"app.py": application}
	return []server{
		{name: "dbus-daemon", pkg: "dbus", version: []string{"dbus-daemon", "--version"}, command: []string{"dbus-daemon", "--session", "--nofork", "--nopidfile", "--address=unix:path={dir}/s"}},
		{name: "fcgiwrap", pkg: "fcgiwrap", version: []string{"dpkg-query", "-Wf", "${Version}", "fcgiwrap"}, command: []string{"fcgiwrap", "-s", "unix:{dir}/s"}},
		{name: "Gunicorn", pkg: "gunicorn", version: []string{"gunicorn", "--version"}, files: app, command: []string{"gunicorn", "-b", "unix:{dir}/s", "app:application"}},
		{
			name: "HAProxy", pkg: "haproxy", version: []string{"haproxy", "-v"},
			files:   map[string]string{"haproxy.cfg": "defaults\n    mode tcp\n    timeout client 1m\n    timeout server 1m\n    timeout connect 1m\nlisten test\n    bind unix@{dir}/s\n    server none 127.0.0.1:1\n"},
			command: []string{"haproxy", "-db", "-f", "{dir}/haproxy.cfg"},
		},
		{
			name: "lighttpd", pkg: "lighttpd", version: []string{"lighttpd", "-v"},
			files:   map[string]string{"lighttpd.conf": "server.document-root = \"{dir}\"\nserver.bind = \"{dir}/s\"\n"},
			command: []string{"lighttpd", "-D", "-f", "{dir}/lighttpd.conf"},
		},
		{
			name: "MariaDB", pkg: "mariadb-server", version: []string{"mariadbd", "--version"},
			setup:   [][]string{{"mariadb-install-db", "--no-defaults", "--user=root", "--datadir={dir}/data", "--skip-test-db"}},
			command: []string{"mariadbd", "--no-defaults", "--user=root", "--datadir={dir}/data", "--socket={dir}/s", "--pid-file={dir}/pid", "--skip-networking"},
		},
		{name: "memcached", pkg: "memcached", version: []string{"memcached", "-V"}, command: []string{"memcached", "-u", "root", "-s", "{dir}/s"}},
		{
			name: "Mosquitto", pkg: "mosquitto", version: []string{"mosquitto", "-h"}, //nolint:misspell // so it is called
			files:   map[string]string{"mosquitto.conf": "listener 0 {dir}/s\nallow_anonymous true\nuser root\n"},
			command: []string{"mosquitto", "-c", "{dir}/mosquitto.conf"}, //nolint:misspell // so it is called
		},
		{name: "ncat -lkU", pkg: "ncat", version: []string{"ncat", "--version"}, command: []string{"ncat", "-lkU", "{dir}/s"}},
		{name: "netcat (OpenBSD) -lkU", pkg: "netcat-openbsd", version: []string{"dpkg-query", "-Wf", "${Version}", "netcat-openbsd"}, command: []string{"nc.openbsd", "-lkU", "{dir}/s"}},
		{
			name: "nginx", pkg: "nginx-light", version: []string{"nginx", "-v"},
			files:   map[string]string{"nginx.conf": "daemon off;\npid {dir}/pid;\nerror_log {dir}/error.log;\nevents {}\nhttp { access_log off; server { listen unix:{dir}/s; } }\n"},
			command: []string{"nginx", "-c", "{dir}/nginx.conf"},
		},
		{
			name: "php-fpm", pkg: "php8.2-fpm", version: []string{"php-fpm8.2", "--version"},
			files:   map[string]string{"fpm.conf": "[global]\nerror_log = /dev/stderr\n[www]\nlisten = {dir}/s\nuser = nobody\npm = static\npm.max_children = 1\n"},
			command: []string{"php-fpm8.2", "-F", "-y", "{dir}/fpm.conf"},
		},
		{name: "Postgrey", pkg: "postgrey", version: []string{"postgrey", "--version"}, command: []string{"postgrey", "--unix={dir}/s", "--dbdir={dir}", "--user=root", "--group=root"}},
		{
			name: "Puma", pkg: "puma", version: []string{"puma", "--version"},
			files:   map[string]string{"config.ru": "run lambda { |env| [200, {}, ['x']] }\n"},
			command: []string{"puma", "-b", "unix://{dir}/s"},
		},
		{name: "Redis", pkg: "redis-server", version: []string{"redis-server", "--version"}, command: []string{"redis-server", "--port", "0", "--unixsocket", "{dir}/s", "--dir", "{dir}", "--save", ""}},
		{name: "socat UNIX-LISTEN", pkg: "socat", version: []string{"socat", "-V"}, command: []string{"socat", "UNIX-LISTEN:{dir}/s,fork", "EXEC:cat"}},
		{name: "spawn-fcgi", pkg: "spawn-fcgi", version: []string{"spawn-fcgi", "-v"}, command: []string{"spawn-fcgi", "-n", "-s", "{dir}/s", "--", "/bin/sleep", "1000"}},
		{name: "ssh-agent", pkg: "openssh-client", version: []string{"ssh", "-V"}, command: []string{"ssh-agent", "-D", "-a", "{dir}/s"}},
		{
			name: "supervisord", pkg: "supervisor", version: []string{"supervisord", "--version"},
			files:   map[string]string{"s.conf": "[unix_http_server]\nfile={dir}/s\n[supervisord]\nnodaemon=true\npidfile={dir}/pid\nlogfile={dir}/log\nchildlogdir={dir}\nuser=root\n"},
			command: []string{"supervisord", "-c", "{dir}/s.conf"},
		},
		{name: "systemd-socket-activate", pkg: "systemd", version: []string{"dpkg-query", "-Wf", "${Version}", "systemd"}, command: []string{"systemd-socket-activate", "-a", "-l", "{dir}/s", "/bin/cat"}},
		{name: "Twisted web", pkg: "python3-twisted", version: pythonPackage("twisted"), command: []string{"twistd3", "--nodaemon", "--pidfile=", "web", "--listen", "unix:{dir}/s"}},
		{
			name: "Uvicorn", pkg: "uvicorn", version: pythonPackage("uvicorn"),
			files:   map[string]string{"app.py": "async def application(scope, receive, send): pass\n"},
			command: []string{"uvicorn", "--uds", "{dir}/s", "app:application"},
		},
		{name: "uWSGI socket", pkg: "uwsgi-core", version: []string{"uwsgi", "--version"}, command: []string{"uwsgi", "--master", "--die-on-term", "--socket", "{dir}/s"}},
		{name: "Varnish", pkg: "varnish", version: []string{"varnishd", "-V"}, command: []string{"varnishd", "-F", "-j", "none", "-n", "{dir}/v", "-b", "none", "-a", "{dir}/s"}},
	}
}

func unixLanguages(self string) []server {
	return []server{
		{
			name: "aiohttp run_app", pkg: "python3-aiohttp", version: pythonPackage("aiohttp"),
			command: []string{python, "-c", "from aiohttp import web; web.run_app(web.Application(), path='{dir}/s')"},
		},
		{name: "Go net.Listen", version: []string{"go", "version"}, command: []string{self, "-" + serveFlag, "{dir}/s"}},
		{name: "Node.js net", pkg: "nodejs", version: []string{"node", "--version"}, command: []string{"node", "-e", "require('net').createServer().listen('{dir}/s')"}},
		{
			name: "Perl IO::Socket::UNIX", pkg: "perl", version: []string{"perl", "-e", `printf "%vd", $^V`},
			command: []string{"perl", "-MIO::Socket::UNIX", "-e", "my $l = IO::Socket::UNIX->new(Listen => 5, Local => '{dir}/s') or die $@; my @c; while (my $c = $l->accept) { push @c, $c }"},
		},
		{
			name: "PHP stream_socket_server", pkg: "php8.2-cli", version: []string{"php", "--version"},
			command: []string{"php", "-r", "$l = stream_socket_server('unix://{dir}/s') or exit(1); $c = []; while (true) { $c[] = stream_socket_accept($l, 1000); }"},
		},
		{
			name: "Python asyncio.start_unix_server", pkg: "python3", version: []string{python, "--version"},
			command: []string{python, "-c", `import asyncio
async def hold(reader, writer): await reader.read()
async def main():
    async with await asyncio.start_unix_server(hold, '{dir}/s') as s: await s.serve_forever()
asyncio.run(main())`},
		},
		{
			name: "Python socketserver.UnixStreamServer", pkg: "python3", version: []string{python, "--version"},
			command: []string{python, "-c", `import socketserver
socketserver.UnixStreamServer('{dir}/s', socketserver.BaseRequestHandler).serve_forever()`},
		},
		{name: "Ruby UNIXServer", pkg: "ruby", version: []string{"ruby", "--version"}, command: []string{"ruby", "-rsocket", "-e", "l = UNIXServer.new('{dir}/s'); c = []; loop { c << l.accept }"}},
		{
			name: "Tornado bind_unix_socket", pkg: "python3-tornado", version: pythonPackage("tornado"),
			command: []string{python, "-c", "import tornado.netutil, tornado.httpserver, tornado.web, tornado.ioloop; tornado.httpserver.HTTPServer(tornado.web.Application()).add_socket(tornado.netutil.bind_unix_socket('{dir}/s')); tornado.ioloop.IOLoop.current().start()"},
		},
	}
}
