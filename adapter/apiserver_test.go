package adapter

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/metrics/pkg/apis/external_metrics/v1beta1"
)

// authority is a certificate authority made for a test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t testing.TB, name string) authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	return authority{cert: sign(t, template, template, key, key), key: key}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t testing.TB, template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// issue makes a certificate for a server on 127.0.0.1 and for a client.
func (a authority) issue(t testing.TB, user string, groups ...string) tls.Certificate {
	t.Helper()
	key := newKey(t)
	cert := sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: user, Organization: groups},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}, a.cert, key, a.key)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key, Leaf: cert}
}

func (a authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

// writeFile puts text into a file of its own.
func writeFile(t testing.TB, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func writeCertificate(t testing.TB, c tls.Certificate) (certFile, keyFile string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	certFile = writeFile(t, "tls.crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})))
	keyFile = writeFile(t, "tls.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	return certFile, keyFile
}

// outsideCluster hides a cluster that the test may run in.
func outsideCluster(t *testing.T) {
	t.Helper()
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	t.Setenv("KUBERNETES_SERVICE_PORT", "")
}

func newTestAPIServer(t testing.TB, flags ...string) *APIServer {
	t.Helper()
	settings := NewAPIServerFlags()
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	settings.AddFlags(fs)
	if err := fs.Parse(append([]string{"--bind-address=127.0.0.1", "--secure-port=0"}, flags...)); err != nil {
		t.Fatal(err)
	}
	s, err := NewAPIServer(APIServerOptions{
		Provider: newTestProvider(t, testStore(), t0),
		Version:  "1.2.3",
		Logger:   slog.New(slog.DiscardHandler),
		Flags:    settings,
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// startAPIServer runs a server with a certificate of ca until the test ends and
// returns its URL.
func startAPIServer(t testing.TB, ca authority, flags ...string) string {
	t.Helper()
	certFile, keyFile := writeCertificate(t, ca.issue(t, "adapter"))
	s := newTestAPIServer(t, append(flags, "--tls-cert-file="+certFile, "--tls-private-key-file="+keyFile)...)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil after its context ends", err)
		}
	})
	select {
	case <-s.Ready():
		return "https://" + s.Addr()
	case err := <-done:
		done <- nil
		t.Fatalf("Run = %v before it was ready", err)
		return ""
	}
}

// client trusts ca and shows certificates.
func client(t testing.TB, ca authority, certificates ...tls.Certificate) *http.Client {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	config := &tls.Config{RootCAs: pool, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		// Shown whether or not the server says that it knows the authority.
		return &append(certificates, tls.Certificate{})[0], nil
	}}
	transport := &http.Transport{TLSClientConfig: config}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

func get(t testing.TB, c *http.Client, url string, header ...string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{status: resp.StatusCode, header: resp.Header, body: string(body)}
}

const (
	groupPath = "/apis/external.metrics.k8s.io/v1beta1"
	cpuPath   = groupPath + "/namespaces/shop/predicted_cpu_cores"
)

func TestAPIServerWithoutACluster(t *testing.T) {
	outsideCluster(t)
	ca, foreign := newAuthority(t, "ca"), newAuthority(t, "foreign")
	url := startAPIServer(t, ca, "--client-ca-file="+writeFile(t, "ca.crt", ca.pem()))
	admin := client(t, ca, ca.issue(t, "admin", "system:masters"))

	t.Run("a client certificate of system:masters is served", func(t *testing.T) {
		a := get(t, admin, url+cpuPath+"?labelSelector=workload%3Dweb%2Cquantile%3D0.95")
		var list v1beta1.ExternalMetricValueList
		if err := json.Unmarshal([]byte(a.body), &list); err != nil || a.status != http.StatusOK {
			t.Fatalf("answer = %d %s, %v", a.status, a.body, err)
		}
		if list.Kind != "ExternalMetricValueList" || list.APIVersion != "external.metrics.k8s.io/v1beta1" || len(list.Items) != 1 {
			t.Fatalf("list = %s", a.body)
		}
		item := list.Items[0]
		if item.MetricName != "predicted_cpu_cores" || item.Value.String() != "234" || !item.Timestamp.Time.Equal(t0) {
			t.Errorf("item = %+v", item)
		}
		want := map[string]string{"namespace": "shop", "workload": "web", "workload_kind": "Deployment"}
		if diff := cmp.Diff(want, item.MetricLabels); diff != "" {
			t.Errorf("labels (-want +got):\n%s", diff)
		}
	})
	t.Run("a metric without forecasts is an empty list", func(t *testing.T) {
		a := get(t, admin, url+groupPath+"/namespaces/shop/predicted_memory_bytes")
		if a.status != http.StatusOK || !strings.Contains(a.body, `"items":[]`) {
			t.Errorf("answer = %d %s", a.status, a.body)
		}
	})
	t.Run("discovery lists the metrics", func(t *testing.T) {
		a := get(t, admin, url+groupPath)
		var list metav1.APIResourceList
		if err := json.Unmarshal([]byte(a.body), &list); err != nil {
			t.Fatalf("answer = %d %s, %v", a.status, a.body, err)
		}
		var names []string
		for _, r := range list.APIResources {
			names = append(names, fmt.Sprintf("%s %v %s %v", r.Name, r.Namespaced, r.Kind, r.Verbs))
		}
		want := []string{
			"predicted_cpu_cores true ExternalMetricValueList [get]",
			"predicted_memory_bytes true ExternalMetricValueList [get]",
		}
		if diff := cmp.Diff(want, names); diff != "" {
			t.Errorf("resources (-want +got):\n%s", diff)
		}
	})

	masters := ca.issue(t, "admin", "system:masters")
	tests := []struct {
		name, path   string
		certificates []tls.Certificate
		status       int
		message      string
	}{
		{"another user of the authority is forbidden", cpuPath, []tls.Certificate{ca.issue(t, "eve", "developers")}, 403, `User \"eve\" cannot list`},
		{"nobody in particular is forbidden", cpuPath, nil, 403, "system:anonymous"},
		{"a certificate of another authority is refused", cpuPath, []tls.Certificate{foreign.issue(t, "admin", "system:masters")}, 401, "Unauthorized"},
		{"an unknown metric is not found", groupPath + "/namespaces/shop/nosuch", []tls.Certificate{masters}, 404, "could not find the metric nosuch"},
		{"a bad horizon is a bad request", cpuPath + "?labelSelector=horizon%3Dsoon", []tls.Certificate{masters}, 400, `horizon \"soon\" is no duration`},
		{"a bad selector is a bad request", cpuPath + "?labelSelector=a%3D%3D%3D", []tls.Certificate{masters}, 400, "unable to parse"},
		{"OpenAPI v2 describes the list", "/openapi/v2", []tls.Certificate{masters}, 200, "ExternalMetricValueList"},
		{"OpenAPI v3 lists the group", "/openapi/v3", []tls.Certificate{masters}, 200, "apis/external.metrics.k8s.io/v1beta1"},
		{"OpenAPI v3 describes the list", "/openapi/v3/apis/external.metrics.k8s.io/v1beta1", []tls.Certificate{masters}, 200, "ExternalMetricValueList"},
		{"the group is discovered", "/apis", []tls.Certificate{masters}, 200, "external.metrics.k8s.io/v1beta1"},
		{"health needs nobody", "/readyz", nil, 200, "ok"},
		{"no profile is served", "/debug/pprof/", []tls.Certificate{masters}, 404, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a := get(t, client(t, ca, test.certificates...), url+test.path)
			if a.status != test.status || !strings.Contains(a.body, test.message) {
				t.Errorf("answer = %d %.500s\nwant %d with %s", a.status, a.body, test.status, test.message)
			}
		})
	}
	t.Run("a token proves nothing", func(t *testing.T) {
		if a := get(t, client(t, ca), url+cpuPath, "Authorization", "Bearer x"); a.status != http.StatusForbidden && a.status != http.StatusUnauthorized {
			t.Errorf("answer = %d %s, want 401 or 403", a.status, a.body)
		}
	})
}

// kubeAPI is a stand-in for a cluster's API server. It knows the tokens "good"
// (user hpa, who may get metrics in shop) and "other", and trusts front for
// request headers and clients for certificates.
type kubeAPI struct{ front, clients authority }

func (k kubeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const configMap = "/api/v1/namespaces/kube-system/configmaps"
	switch r.Method + " " + r.URL.Path {
	case "GET " + configMap + "/extension-apiserver-authentication":
		reply(w, k.configMap())
	case "GET " + configMap:
		if r.URL.Query().Get("watch") != "" {
			k.watch(w, r)
			return
		}
		reply(w, &corev1.ConfigMapList{
			TypeMeta: metav1.TypeMeta{Kind: "ConfigMapList", APIVersion: "v1"},
			ListMeta: metav1.ListMeta{ResourceVersion: "1"}, Items: []corev1.ConfigMap{*k.configMap()},
		})
	case "POST /apis/authentication.k8s.io/v1/tokenreviews":
		var review authenticationv1.TokenReview
		decode(w, r, &review)
		users := map[string]string{"good": "hpa", "other": "other"}
		user, ok := users[review.Spec.Token]
		review.Status = authenticationv1.TokenReviewStatus{Authenticated: ok, User: authenticationv1.UserInfo{Username: user}}
		reply(w, &review)
	case "POST /apis/authorization.k8s.io/v1/subjectaccessreviews":
		var review authorizationv1.SubjectAccessReview
		decode(w, r, &review)
		a := review.Spec.ResourceAttributes
		review.Status.Allowed = review.Spec.User == "hpa" && a != nil && a.Namespace == "shop" && a.Verb == "list" &&
			a.Group == "external.metrics.k8s.io" && a.Resource == "predicted_cpu_cores"
		reply(w, &review)
	default:
		http.NotFound(w, r)
	}
}

// watch tells of the config map as it is and then of no change.
func (k kubeAPI) watch(w http.ResponseWriter, r *http.Request) {
	end := &corev1.ConfigMap{
		TypeMeta: metav1.TypeMeta{Kind: "ConfigMap", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{
			ResourceVersion: "1", Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"},
		},
	}
	w.Header().Set("Content-Type", "application/json")
	if r.URL.Query().Get("sendInitialEvents") == "true" {
		reply(w, map[string]any{"type": "ADDED", "object": k.configMap()})
		reply(w, map[string]any{"type": "BOOKMARK", "object": end})
	}
	if err := http.NewResponseController(w).Flush(); err != nil {
		return
	}
	<-r.Context().Done()
}

func (k kubeAPI) configMap() *corev1.ConfigMap {
	return &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{Kind: "ConfigMap", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{Name: "extension-apiserver-authentication", Namespace: "kube-system", ResourceVersion: "1"},
		Data: map[string]string{
			"client-ca-file":                     k.clients.pem(),
			"requestheader-client-ca-file":       k.front.pem(),
			"requestheader-allowed-names":        `["front-proxy-client"]`,
			"requestheader-username-headers":     `["X-Remote-User"]`,
			"requestheader-group-headers":        `["X-Remote-Group"]`,
			"requestheader-extra-headers-prefix": `["X-Remote-Extra-"]`,
		},
	}
}

func decode(w http.ResponseWriter, r *http.Request, v any) {
	if err := json.NewDecoder(r.Body).Decode(v); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		panic(err)
	}
}

func kubeconfig(t testing.TB, url string) string {
	t.Helper()
	return writeFile(t, "kubeconfig", fmt.Sprintf(`
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q}}]
users: [{name: u, user: {}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, url))
}

func TestAPIServerDelegatesToACluster(t *testing.T) {
	outsideCluster(t)
	ca, front, clients := newAuthority(t, "serving"), newAuthority(t, "front"), newAuthority(t, "clients")
	cluster := httptest.NewServer(kubeAPI{front: front, clients: clients})
	t.Cleanup(cluster.Close)
	config := kubeconfig(t, cluster.URL)
	url := startAPIServer(t, ca, "--authentication-kubeconfig="+config, "--authorization-kubeconfig="+config)
	proxy := []tls.Certificate{front.issue(t, "front-proxy-client")}
	// The authorities of clients are watched, and known a moment after the start.
	root := client(t, ca, clients.issue(t, "root", "system:masters"))
	for start := time.Now(); get(t, root, url+groupPath).status != http.StatusOK && time.Since(start) < 20*time.Second; {
		root.CloseIdleConnections()
	}
	tests := []struct {
		name, path   string
		certificates []tls.Certificate
		header       []string
		status       int
	}{
		{"a token that the cluster knows and allows", cpuPath, nil, []string{"Authorization", "Bearer good"}, 200},
		{"a token that the cluster knows and does not allow", cpuPath, nil, []string{"Authorization", "Bearer other"}, 403},
		{"an allowed token in another namespace", groupPath + "/namespaces/batch/predicted_cpu_cores", nil, []string{"Authorization", "Bearer good"}, 403},
		{"a token that the cluster does not know", cpuPath, nil, []string{"Authorization", "Bearer unknown"}, 401},
		{"nobody", cpuPath, nil, nil, 403},
		{"the aggregator, for an allowed user", cpuPath, proxy, []string{"X-Remote-User", "hpa"}, 200},
		{"the aggregator, for another user", cpuPath, proxy, []string{"X-Remote-User", "other"}, 403},
		{"a user header without the aggregator's certificate", cpuPath, nil, []string{"X-Remote-User", "hpa"}, 403},
		{"a user header with a certificate of another name", cpuPath, []tls.Certificate{front.issue(t, "someone")}, []string{"X-Remote-User", "hpa"}, 401},
		{"a client certificate of the cluster, allowed", cpuPath, []tls.Certificate{clients.issue(t, "hpa")}, nil, 200},
		{"a client certificate of the cluster, not allowed", cpuPath, []tls.Certificate{clients.issue(t, "other")}, nil, 403},
		{"a client certificate of system:masters", groupPath, []tls.Certificate{clients.issue(t, "root", "system:masters")}, nil, 200},
		{"a client certificate of nobody we know", cpuPath, []tls.Certificate{ca.issue(t, "hpa", "system:masters")}, nil, 401},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a := get(t, client(t, ca, test.certificates...), url+test.path, test.header...)
			if a.status != test.status {
				t.Errorf("answer = %d %.500s, want %d", a.status, a.body, test.status)
			}
			if a.status == http.StatusOK && test.path == cpuPath && !strings.Contains(a.body, "ExternalMetricValueList") {
				t.Errorf("answer = %s", a.body)
			}
		})
	}
}

func TestAPIServerRefusesToStart(t *testing.T) {
	outsideCluster(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	dead := httptest.NewServer(nil)
	dead.Close()
	ca := newAuthority(t, "ca")
	clientCA := "--client-ca-file=" + writeFile(t, "ca.crt", ca.pem())
	tests := []struct {
		name  string
		flags []string
		want  string
	}{
		{"nobody could be let in", nil, "nobody could be let in"},
		{"an authority that is not there", []string{"--client-ca-file=/nosuch"}, "/nosuch"},
		{"an authority that is none", []string{"--client-ca-file=" + writeFile(t, "ca.crt", "x")}, "client CA"},
		{"a certificate that is not there", []string{clientCA, "--tls-cert-file=/nosuch.crt", "--tls-private-key-file=/nosuch.key"}, "/nosuch.crt"},
		{"a kubeconfig that is not there", []string{clientCA, "--authentication-kubeconfig=/nosuch"}, "/nosuch"},
		{"a kubeconfig for authorization that is not there", []string{clientCA, "--authorization-kubeconfig=/nosuch"}, "/nosuch"},
		{"a cluster that does not answer", []string{"--authentication-kubeconfig=" + kubeconfig(t, dead.URL)}, "connection refused"},
		{"a port that is taken", []string{clientCA, "--secure-port=" + port}, "address already in use"},
		{"an address that is not here", []string{clientCA, "--bind-address=192.0.2.1"}, "192.0.2.1:0"},
		{"a port that is none", []string{clientCA, "--secure-port=70000"}, "--secure-port 70000 must be between"},
		{"a header without a name", []string{clientCA, "--requestheader-username-headers= "}, "requestheader-username-headers"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := newTestAPIServer(t, test.flags...)
			err := s.Run(t.Context())
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Run = %v, want an error with %q", err, test.want)
			}
			if got := s.Addr(); got != "" {
				t.Errorf("Addr = %q of a server that never ran", got)
			}
			if l := s.flags.serving.Listener; l != nil {
				if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
					t.Errorf("the port is still open: %v", err)
				}
			}
		})
	}
}

func TestAPIServerInABrokenClusterDoesNotGoOnWithout(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
	t.Setenv("KUBERNETES_SERVICE_PORT", "1")
	ca := newAuthority(t, "ca")
	// No service account token is mounted.
	err := newTestAPIServer(t, "--client-ca-file="+writeFile(t, "ca.crt", ca.pem())).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "serviceaccount/token") {
		t.Errorf("Run = %v, want an error that names the token", err)
	}
}

func TestAPIServerMakesItsOwnCertificateInMemory(t *testing.T) {
	outsideCluster(t)
	ca := newAuthority(t, "ca")
	s := newTestAPIServer(t, "--client-ca-file="+writeFile(t, "ca.crt", ca.pem()))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	<-s.Ready()
	conn, err := tls.Dial("tcp", s.Addr(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	if got := conn.ConnectionState().PeerCertificates[0].IPAddresses; len(got) == 0 || !got[0].Equal(net.IPv4(127, 0, 0, 1)) {
		t.Errorf("certificate is for %v, want 127.0.0.1", got)
	}
	if err := conn.Close(); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v", err)
	}
	if _, err := os.Stat("apiserver.local.config"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a certificate was written to the working directory: %v", err)
	}
}

func TestAPIServerFlagsStayInTheirSet(t *testing.T) {
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	NewAPIServerFlags().AddFlags(fs)
	for _, name := range []string{
		"secure-port", "bind-address", "tls-cert-file", "tls-private-key-file", "cert-dir", "client-ca-file",
		"requestheader-client-ca-file", "requestheader-allowed-names", "authentication-kubeconfig", "authorization-kubeconfig",
		"authentication-skip-lookup", "authentication-tolerate-lookup-failure",
	} {
		if fs.Lookup(name) == nil {
			t.Errorf("no flag --%s", name)
		}
		if pflag.CommandLine.Lookup(name) != nil {
			t.Errorf("flag --%s is in the global set", name)
		}
	}
	if got := fs.Lookup("secure-port").DefValue; got != "6443" {
		t.Errorf("--secure-port = %s by default, want 6443", got)
	}
}

func TestAPIServerFlagsAreSetByName(t *testing.T) {
	f := NewAPIServerFlags()
	if err := f.Set(map[string]string{"secure-port": "7443", "client-ca-file": "ca.crt"}); err != nil {
		t.Fatal(err)
	}
	if f.serving.BindPort != 7443 || f.authentication.ClientCert.ClientCA != "ca.crt" {
		t.Errorf("port %d and authority %q; want 7443 and ca.crt", f.serving.BindPort, f.authentication.ClientCert.ClientCA)
	}
	if err := f.Set(map[string]string{"port": "1"}); err == nil {
		t.Error("an unknown flag was set")
	}
}

func TestAPIServerNeedsItsParts(t *testing.T) {
	for name, o := range map[string]APIServerOptions{
		"no provider": {Flags: NewAPIServerFlags()},
		"no flags":    {Provider: newTestProvider(t, testStore(), t0)},
	} {
		if _, err := NewAPIServer(o); err == nil {
			t.Errorf("%s: a server was made", name)
		}
	}
}

// roundTrip is a transport that is one function.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestAnswerTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		request := func(next roundTrip) (*http.Response, error) {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://kube.test", nil)
			if err != nil {
				t.Fatal(err)
			}
			return answerTimeout{next: next, timeout: 10 * time.Second}.RoundTrip(r)
		}
		start := time.Now()
		_, err := request(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		})
		if err == nil || err.Error() != "no answer within 10s" || time.Since(start) != 10*time.Second {
			t.Errorf("silence = %v after %s, want an error after 10s", err, time.Since(start))
		}

		refused := errors.New("connection refused")
		if _, err := request(func(*http.Request) (*http.Response, error) { return nil, refused }); !errors.Is(err, refused) {
			t.Errorf("error = %v, want %v", err, refused)
		}

		late := &http.Response{Body: io.NopCloser(strings.NewReader("x"))}
		if _, err := request(func(*http.Request) (*http.Response, error) {
			time.Sleep(11 * time.Second)
			return late, nil
		}); err == nil {
			t.Error("an answer after the timeout was taken")
		}

		var ctx context.Context
		resp, err := request(func(r *http.Request) (*http.Response, error) {
			ctx = r.Context()
			return &http.Response{Body: io.NopCloser(strings.NewReader("x"))}, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour) // A watch may last.
		if ctx.Err() != nil {
			t.Errorf("the body of an answer was cut: %v", ctx.Err())
		}
		if err := resp.Body.Close(); err != nil || ctx.Err() == nil {
			t.Errorf("close = %v, context %v; want it released", err, ctx.Err())
		}
	})
}
