package exporter

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sockstate_exporter/internal/kerneltest"
)

// An authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := new(authority)
	template := certificate(name)
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	der, key := sign(t, template, nil)
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a.cert, a.key = cert, key
	return a
}

func certificate(name string) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
}

// sign makes a key, and a certificate that the authority signs, or the key itself.
func sign(t *testing.T, template *x509.Certificate, by *authority) ([]byte, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if by == nil {
		by = &authority{cert: template, key: key}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, &key.PublicKey, by.key)
	if err != nil {
		t.Fatal(err)
	}
	return der, key
}

func (a *authority) pair(t *testing.T, name string) tls.Certificate {
	t.Helper()
	der, key := sign(t, certificate(name), a)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func writeFile(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func pemOf(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

const (
	webUser, webPassword = "prometheus", "correct horse"
	// webHash is bcrypt's of webPassword, at its least cost.
	webHash = "$2a$04$eWgvQ6vX1OcZ.n/4XYyrYeGfnShJ06tJBSJrhZ4jrXU6EztFwXp7e"
)

// serveTLS starts the exporter with TLS, client certificates and a password.
func serveTLS(t *testing.T, ours *authority) *exporter {
	t.Helper()
	dir := t.TempDir()
	der, key := sign(t, certificate("exporter"), ours)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writeFile(t, dir, "server.crt", pemOf("CERTIFICATE", der))
	writeFile(t, dir, "server.key", pemOf("PRIVATE KEY", keyDER))
	writeFile(t, dir, "ca.crt", pemOf("CERTIFICATE", ours.cert.Raw))
	writeFile(t, dir, "web.yml", fmt.Sprintf(`tls_server_config:
  cert_file: server.crt
  key_file: server.key
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: ca.crt
basic_auth_users:
  %s: %s
`, webUser, webHash))
	e := command(t, kerneltest.New(t), withoutPrivileges("--web.config.file="+filepath.Join(dir, "web.yml"))...)
	e.Start(t)
	return e
}

// A visitor asks for /metrics over TLS.
type visitor struct {
	certificate    *tls.Certificate
	trusts         *x509.CertPool
	user, password string
	scheme         string
}

func (e *exporter) visit(t *testing.T, v visitor) (int, string, error) {
	t.Helper()
	config := &tls.Config{RootCAs: v.trusts, MinVersion: tls.VersionTLS12}
	if v.certificate != nil {
		// Whatever authorities the server names.
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return v.certificate, nil }
	}
	transport, ok := e.Client.Transport.(*http.Transport)
	if !ok {
		t.Fatalf("the transport is a %T", e.Client.Transport)
	}
	client := &http.Client{Transport: &http.Transport{DialContext: transport.DialContext, TLSClientConfig: config, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, v.scheme+"://"+address+"/metrics", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	if v.user != "" {
		req.SetBasicAuth(v.user, v.password)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

func TestTLSAndPasswordsKeepOthersOut(t *testing.T) {
	ours, theirs := newAuthority(t, "ours"), newAuthority(t, "theirs")
	ourPair, theirPair := ours.pair(t, "prometheus"), theirs.pair(t, "prometheus")
	e := serveTLS(t, ours)
	good := visitor{certificate: &ourPair, trusts: ours.pool(), user: webUser, password: webPassword, scheme: "https"}

	deadline := time.Now().Add(3 * time.Minute)
	for {
		status, body, err := e.visit(t, good)
		if err == nil && status == http.StatusOK {
			if !strings.Contains(body, "\nsockstate_watched_ports ") {
				t.Errorf("the right visitor was served\n%s", body)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the right visitor was not served: status %d, %v\n%s%s", status, err, body, e.Log)
		}
		time.Sleep(20 * time.Millisecond)
	}

	for _, tt := range []struct {
		name   string
		change func(*visitor)
		status int
		err    string // where there is no answer
	}{
		{"no password", func(v *visitor) { v.user = "" }, http.StatusUnauthorized, ""},
		{"wrong password", func(v *visitor) { v.password = "battery staple" }, http.StatusUnauthorized, ""},
		{"empty password", func(v *visitor) { v.password = "" }, http.StatusUnauthorized, ""},
		{"unknown user", func(v *visitor) { v.user = "root" }, http.StatusUnauthorized, ""},
		{"the hash for a password", func(v *visitor) { v.password = webHash }, http.StatusUnauthorized, ""},
		{"no certificate", func(v *visitor) { v.certificate = nil }, 0, "tls: certificate required"},
		{"a certificate of somebody else", func(v *visitor) { v.certificate = &theirPair }, 0, "tls: unknown certificate authority"},
		{"a server that is not trusted", func(v *visitor) { v.trusts = theirs.pool() }, 0, "x509: certificate signed by unknown authority"},
		{"plain HTTP", func(v *visitor) { v.scheme = "http" }, http.StatusBadRequest, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := good
			tt.change(&v)
			status, body, err := e.visit(t, v)
			switch {
			case tt.err == "" && (err != nil || status != tt.status):
				t.Errorf("status %d, %v; want %d", status, err, tt.status)
			case tt.err != "" && (err == nil || !strings.Contains(err.Error(), tt.err)):
				t.Errorf("status %d, %v; want an error with %q", status, err, tt.err)
			}
			if strings.Contains(body, "sockstate_") {
				t.Errorf("was served\n%s", body)
			}
		})
	}
}
