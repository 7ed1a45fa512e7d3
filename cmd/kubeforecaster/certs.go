package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"
)

// demoCertLifetime is long enough for a demonstration that is left running.
const demoCertLifetime = 30 * 24 * time.Hour

// demoFiles are the files that `demo` writes for its clients.
type demoFiles struct {
	ca, serverCert, serverKey, clientCert, clientKey, kubeconfig string
}

func demoFilesIn(dir string) demoFiles {
	in := func(name string) string { return filepath.Join(dir, name) }
	return demoFiles{
		ca: in("ca.crt"), serverCert: in("server.crt"), serverKey: in("server.key"),
		clientCert: in("client.crt"), clientKey: in("client.key"), kubeconfig: in("kubeconfig"),
	}
}

// authority signs the demo's certificates. Its key is never written.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// writeCertificates makes an authority, a serving certificate for the loopback
// addresses and a client certificate of system:masters, and writes them. The
// authority can sign more.
func (f demoFiles) writeCertificates(now time.Time) (*authority, error) {
	ca, err := newAuthority(now)
	if err != nil {
		return nil, err
	}
	if err := writePEM(f.ca, "CERTIFICATE", ca.cert.Raw, 0o644); err != nil {
		return nil, err
	}
	server := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "kubeforecaster"},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		DNSNames:    []string{"localhost"},
	}
	if err := ca.write(server, f.serverCert, f.serverKey, now); err != nil {
		return nil, err
	}
	return ca, ca.writeClient(pkix.Name{CommonName: "demo", Organization: []string{"system:masters"}}, f.clientCert, f.clientKey, now)
}

// writeClient writes a client certificate for the named user and groups.
func (a *authority) writeClient(name pkix.Name, certFile, keyFile string, now time.Time) error {
	template := &x509.Certificate{Subject: name, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	return a.write(template, certFile, keyFile, now)
}

func newAuthority(now time.Time) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "kubeforecaster demo"},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign,
	}
	cert, err := sign(template, template, &key.PublicKey, key, now)
	if err != nil {
		return nil, err
	}
	return &authority{cert: cert, key: key}, nil
}

// write makes a key, signs template for it, and writes both.
func (a *authority) write(template *x509.Certificate, certFile, keyFile string, now time.Time) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	cert, err := sign(template, a.cert, &key.PublicKey, a.key, now)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writePEM(keyFile, "PRIVATE KEY", der, 0o600); err != nil {
		return err
	}
	return writePEM(certFile, "CERTIFICATE", cert.Raw, 0o644)
}

func sign(template, parent *x509.Certificate, public *ecdsa.PublicKey, signer *ecdsa.PrivateKey, now time.Time) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	template.NotBefore, template.NotAfter = now.Add(-time.Minute), now.Add(demoCertLifetime)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", template.Subject.CommonName, err)
	}
	return x509.ParseCertificate(der)
}

func writePEM(name, kind string, der []byte, mode os.FileMode) error {
	return os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}

// writeKubeconfig writes a kubeconfig that speaks to the API server at address
// with the client certificate, all within the file.
func (f demoFiles) writeKubeconfig(address string) error {
	var data [3]string
	for i, name := range []string{f.ca, f.clientCert, f.clientKey} {
		pemData, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		data[i] = base64.StdEncoding.EncodeToString(pemData)
	}
	type named map[string]any
	doc := named{
		"apiVersion": "v1", "kind": "Config", "current-context": "demo",
		"clusters": []named{{"name": "demo", "cluster": named{
			"server": "https://" + address, "certificate-authority-data": data[0],
		}}},
		"users": []named{{"name": "demo", "user": named{
			"client-certificate-data": data[1], "client-key-data": data[2],
		}}},
		"contexts": []named{{"name": "demo", "context": named{"cluster": "demo", "user": "demo"}}},
	}
	out, err := yaml.Marshal(doc)
	if err != nil {
		return err
	}
	return os.WriteFile(f.kubeconfig, out, 0o600)
}
