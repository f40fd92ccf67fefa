package main

// A server is a program that listens, and how to run it. {port} and {dir} in arguments and files are
// its port and an empty directory.
type server struct {
	name    string
	pkg     string            // Debian's packages, if the program is in one
	version []string          // a command that writes its version
	files   map[string]string // that it needs in its directory
	setup   [][]string        // commands that come before, in its directory
	command []string          // it runs in the foreground
	user    string            // that it runs as, if not root
}

// servers are those that are measured. self is this program.
func servers(self string) []server {
	return append(append(daemons(), more()...), languages(self)...)
}

// daemons are programs that come with a configuration.
func daemons() []server {
	return []server{
		{
			name: "Apache httpd", pkg: "apache2-bin", version: []string{"apache2", "-v"},
			files: map[string]string{"httpd.conf": `ServerRoot {dir}
ServerName localhost
PidFile {dir}/pid
ErrorLog {dir}/error.log
LoadModule mpm_event_module /usr/lib/apache2/modules/mod_mpm_event.so
LoadModule authz_core_module /usr/lib/apache2/modules/mod_authz_core.so
User nobody
Group nogroup
Listen {port}
`},
			command: []string{"apache2", "-f", "{dir}/httpd.conf", "-DFOREGROUND"},
		},
		{name: "beanstalkd", pkg: "beanstalkd", version: []string{"beanstalkd", "-v"}, command: []string{"beanstalkd", "-p", "{port}"}},
		{name: "busybox httpd", pkg: "busybox", version: []string{"busybox"}, command: []string{"busybox", "httpd", "-f", "-p", "{port}"}},
		{
			name: "dnsmasq", pkg: "dnsmasq-base", version: []string{"dnsmasq", "--version"},
			command: []string{"dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file={dir}/pid", "--user=root", "--no-resolv", "--port={port}"},
		},
		{
			name: "dropbear", pkg: "dropbear-bin", version: []string{"dropbear", "-V"},
			setup:   [][]string{{"dropbearkey", "-t", "ed25519", "-f", "{dir}/key"}},
			command: []string{"dropbear", "-F", "-E", "-r", "{dir}/key", "-P", "{dir}/pid", "-p", "{port}"},
		},
		{name: "git daemon", pkg: "git", version: []string{"git", "--version"}, command: []string{"git", "daemon", "--base-path={dir}", "--port={port}"}},
		{
			name: "HAProxy", pkg: "haproxy", version: []string{"haproxy", "-v"},
			files: map[string]string{"haproxy.cfg": `defaults
    mode tcp
    timeout client 1m
    timeout server 1m
    timeout connect 1m
listen test
    bind 0.0.0.0:{port}
    bind :::{port} v6only
    server none 127.0.0.1:1
`},
			command: []string{"haproxy", "-db", "-f", "{dir}/haproxy.cfg"},
		},
		{name: "iperf3", pkg: "iperf3", version: []string{"iperf3", "--version"}, command: []string{"iperf3", "-s", "-p", "{port}"}},
		{
			name: "lighttpd", pkg: "lighttpd", version: []string{"lighttpd", "-v"},
			files:   map[string]string{"lighttpd.conf": "server.document-root = \"{dir}\"\nserver.port = {port}\n"},
			command: []string{"lighttpd", "-D", "-f", "{dir}/lighttpd.conf"},
		},
		{name: "memcached", pkg: "memcached", version: []string{"memcached", "-V"}, command: []string{"memcached", "-u", "nobody", "-p", "{port}"}},
		{
			name: "Mosquitto", pkg: "mosquitto", version: []string{"mosquitto", "-h"}, //nolint:misspell // so it is called
			files:   map[string]string{"mosquitto.conf": "listener {port}\nallow_anonymous true\nuser root\n"},
			command: []string{"mosquitto", "-c", "{dir}/mosquitto.conf"}, //nolint:misspell // so it is called
		},
		{name: "NATS server", pkg: "nats-server", version: []string{"nats-server", "-v"}, command: []string{"nats-server", "-p", "{port}"}},
		{
			name: "nginx", pkg: "nginx-light", version: []string{"nginx", "-v"},
			files: map[string]string{"nginx.conf": `daemon off;
pid {dir}/pid;
error_log {dir}/error.log;
events {}
http {
    access_log off;
    server {
        listen {port} default_server;
        listen [::]:{port} default_server;
    }
}
`},
			command: []string{"nginx", "-c", "{dir}/nginx.conf"},
		},
		{
			name: "OpenSSH", pkg: "openssh-server", version: []string{"ssh", "-V"},
			files:   map[string]string{"sshd_config": "Port {port}\nHostKey {dir}/key\nPidFile none\n"},
			setup:   [][]string{{"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "{dir}/key"}, {"mkdir", "-p", "/run/sshd"}},
			command: []string{"/usr/sbin/sshd", "-D", "-e", "-f", "{dir}/sshd_config"},
		},
		{
			name: "PostgreSQL", pkg: "postgresql-15", version: []string{"/usr/lib/postgresql/15/bin/postgres", "--version"},
			setup:   [][]string{{"/usr/lib/postgresql/15/bin/initdb", "-D", "{dir}/data"}},
			command: []string{"/usr/lib/postgresql/15/bin/postgres", "-D", "{dir}/data", "-k", "{dir}", "-h", "*", "-p", "{port}"},
			user:    "postgres",
		},
		{name: "Redis", pkg: "redis-server", version: []string{"redis-server", "--version"}, command: []string{"redis-server", "--port", "{port}", "--dir", "{dir}", "--save", ""}},
		{
			name: "rsync --daemon", pkg: "rsync", version: []string{"rsync", "--version"},
			files:   map[string]string{"rsyncd.conf": ""},
			command: []string{"rsync", "--daemon", "--no-detach", "--config={dir}/rsyncd.conf", "--port={port}"},
		},
		{name: "socat TCP-LISTEN", pkg: "socat", version: []string{"socat", "-V"}, command: []string{"socat", "TCP-LISTEN:{port},fork", "EXEC:cat"}},
		{
			name: "tinyproxy", pkg: "tinyproxy-bin", version: []string{"tinyproxy", "-v"},
			files:   map[string]string{"tinyproxy.conf": "Port {port}\nTimeout 600\n"},
			command: []string{"tinyproxy", "-d", "-c", "{dir}/tinyproxy.conf"},
		},
	}
}

// languages are the least that listens in a language.
func languages(self string) []server {
	return []server{
		{
			name: "Erlang gen_tcp", pkg: "erlang-base", version: []string{"erl", "-noshell", "-eval", `{ok, V} = file:read_file(filename:join([code:root_dir(), "releases", erlang:system_info(otp_release), "OTP_VERSION"])), io:put_chars(V), halt().`},
			command: []string{"erl", "-noshell", "-eval", "{ok, L} = gen_tcp:listen({port}, []), {ok, _} = gen_tcp:accept(L), timer:sleep(infinity)."},
		},
		{name: "Go net.Listen", version: []string{"go", "version"}, command: []string{self, "-" + serveFlag, ":{port}"}},
		{name: "Node.js net", pkg: "nodejs", version: []string{"node", "--version"}, command: []string{"node", "-e", "require('net').createServer().listen({port})"}},
		{
			name: "Perl IO::Socket::INET", pkg: "perl", version: []string{"perl", "-e", `printf "%vd", $^V`},
			command: []string{"perl", "-MIO::Socket::INET", "-e", "my $l = IO::Socket::INET->new(Listen => 5, LocalPort => {port}) or die $@; my @c; while (my $c = $l->accept) { push @c, $c }"},
		},
		{name: "PHP -S", pkg: "php8.2-cli", version: []string{"php", "--version"}, command: []string{"php", "-S", "[::]:{port}", "-t", "{dir}"}},
		{
			name: "PHP socket_create_listen", pkg: "php8.2-cli", version: []string{"php", "--version"},
			command: []string{"php", "-r", "$l = socket_create_listen({port}) or exit(1); $c = []; while ($s = socket_accept($l)) { $c[] = $s; }"},
		},
		{
			name: "Python asyncio.start_server", pkg: "python3", version: []string{"/usr/bin/python3", "--version"},
			command: []string{"/usr/bin/python3", "-c", `import asyncio
async def hold(reader, writer): await reader.read()
async def main():
    async with await asyncio.start_server(hold, None, {port}) as s: await s.serve_forever()
asyncio.run(main())`},
		},
		{name: "Python http.server", pkg: "python3", version: []string{"/usr/bin/python3", "--version"}, command: []string{"/usr/bin/python3", "-m", "http.server", "{port}"}},
		{
			name: "Python socketserver.TCPServer", pkg: "python3", version: []string{"/usr/bin/python3", "--version"},
			command: []string{"/usr/bin/python3", "-c", `import socketserver, time
class Hold(socketserver.BaseRequestHandler):
    def handle(self): time.sleep(1000)
socketserver.TCPServer(('', {port}), Hold).serve_forever()`},
		},
		{name: "Ruby TCPServer", pkg: "ruby", version: []string{"ruby", "--version"}, command: []string{"ruby", "-rsocket", "-e", "l = TCPServer.new({port}); c = []; loop { c << l.accept }"}},
		{name: "Tcl socket -server", pkg: "tcl", version: []string{"sh", "-c", "echo 'puts [info patchlevel]' | tclsh"}, command: []string{"tclsh", "{dir}/server.tcl"},
			files: map[string]string{"server.tcl": "proc hold {c a p} {}\nsocket -server hold {port}\nvwait forever\n"},
		},
	}
}
