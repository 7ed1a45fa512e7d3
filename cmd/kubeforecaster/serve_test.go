package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kubeforecaster/kubeforecaster/adapter"
	"github.com/kubeforecaster/kubeforecaster/prom/embedded"
)

// patience bounds every wait of the tests below.
const patience = 90 * time.Second

// testRules has a step of ten seconds, the shortest there is, so that an outage
// is over soon.
const testRules = `
default_rules: false
rules:
  - metric: predicted_load
    expr: sum by (namespace, workload) (load)
    step: 10s
    lookback: 1h
    lead: 30s
    max_age: 20s
`

// stand is a running adapter with a real Prometheus that scrapes a target.
type stand struct {
	t          *testing.T
	dir        string
	files      demoFiles
	ca         *authority
	prometheus *embedded.Server
	at         addresses
	log        *logBuffer
	stop       func() error
}

func startStand(t *testing.T) *stand {
	t.Helper()
	s := &stand{t: t, dir: t.TempDir(), log: &logBuffer{}}
	s.files = demoFilesIn(s.dir)
	var err error
	if s.ca, err = s.files.writeCertificates(time.Now()); err != nil {
		t.Fatal(err)
	}
	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "load{namespace=\"shop\",workload=\"web\"} 4\nload{namespace=\"shop\",workload=\"db\"} 2\nload{namespace=\"bank\",workload=\"web\"} 8\n")
	}))
	t.Cleanup(target.Close)
	s.startPrometheus("127.0.0.1:0", strings.TrimPrefix(target.URL, "http://"))
	s.write("config.yml", testRules)
	s.startAdapter()
	return s
}

func (s *stand) startPrometheus(listen, target string) {
	s.t.Helper()
	var err error
	s.prometheus, err = embedded.Start(s.t.Context(), embedded.Options{
		Dir: filepath.Join(s.dir, "prometheus"), Listen: listen,
		Scrapes: []embedded.Scrape{{Job: "app", Target: target, Interval: time.Second}},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	p := s.prometheus
	s.t.Cleanup(func() { _ = p.Close() })
}

func (s *stand) startAdapter() {
	s.t.Helper()
	flags := adapter.NewAPIServerFlags()
	if err := flags.Set(map[string]string{
		"bind-address": "127.0.0.1", "secure-port": "0",
		"tls-cert-file": s.files.serverCert, "tls-private-key-file": s.files.serverKey, "client-ca-file": s.files.ca,
	}); err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(withLogger(context.Background(), slog.New(slog.NewTextHandler(s.log, nil))))
	ready, done := make(chan addresses, 1), make(chan error, 1)
	go func() {
		done <- serve(ctx, serveOptions{
			configFile: filepath.Join(s.dir, "config.yml"), prometheusURL: s.prometheus.URL(),
			listen: "127.0.0.1:0", startupTimeout: 10 * time.Second, api: flags,
		}, func(a addresses) { ready <- a })
	}()
	s.stop = sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	s.t.Cleanup(func() { _ = s.stop() })
	select {
	case s.at = <-ready:
	case err := <-done:
		s.t.Fatalf("serve ended: %v\n%s", err, s.log)
	case <-time.After(patience):
		s.t.Fatalf("serve is not ready\n%s", s.log)
	}
}

func (s *stand) write(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// external asks the external metrics API with the given client certificate.
func (s *stand) external(cert, key, namespace, metric, selector string) (int, externalList) {
	s.t.Helper()
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		s.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	authority, err := os.ReadFile(s.files.ca)
	if err != nil || !roots.AppendCertsFromPEM(authority) {
		s.t.Fatalf("no authority in %s: %v", s.files.ca, err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
	resp, err := client.Get("https://" + s.at.secure + "/apis/external.metrics.k8s.io/v1beta1/namespaces/" + namespace + "/" + metric + "?labelSelector=" + selector)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var list externalList
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		s.t.Fatalf("status %d: %v", resp.StatusCode, err)
	}
	return resp.StatusCode, list
}

// externalList is what the API answers, read as any client would.
type externalList struct {
	Kind  string
	Items []struct {
		MetricName   string
		MetricLabels map[string]string
		Timestamp    time.Time
		Value        string
	}
}

func (s *stand) served(selector string) []string {
	s.t.Helper()
	code, list := s.external(s.files.clientCert, s.files.clientKey, "shop", "predicted_load", selector)
	if code != http.StatusOK || list.Kind != "ExternalMetricValueList" {
		s.t.Fatalf("answer is %d %q; want 200 and an ExternalMetricValueList", code, list.Kind)
	}
	var out []string
	for _, item := range list.Items {
		out = append(out, item.MetricLabels["workload"]+"="+item.Value)
	}
	return out
}

func (s *stand) get(path string) (int, string) {
	s.t.Helper()
	return fetch(s.t, http.MethodGet, "http://"+s.at.plain+path)
}

func fetch(t *testing.T, method, url string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// eventually waits until ok, or fails with what was wanted and the log.
func (s *stand) eventually(what string, ok func() bool) {
	s.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if ok() {
			return
		}
	}
	s.t.Fatalf("after %s still not: %s\n%s", patience, what, s.log)
}

func TestForecastsAreServedToWhoMayReadThem(t *testing.T) {
	s := startStand(t)
	s.eventually("a forecast of web", func() bool { return len(s.served("workload%3Dweb")) == 1 })

	// A flat load is forecast flat, whoever forecasts it.
	if got := s.served("workload%3Dweb"); len(got) != 1 || !strings.HasPrefix(got[0], "web=4") {
		t.Errorf("served %v; want one value of 4 and a little", got)
	}
	if got := s.served(""); len(got) != 2 {
		t.Errorf("served %v in shop; want web and db, and not bank's web", got)
	}
	_, list := s.external(s.files.clientCert, s.files.clientKey, "shop", "predicted_load", "workload%3Dweb,quantile%3D0.95,horizon%3D1m")
	if len(list.Items) != 1 || len(list.Items[0].MetricLabels) != 2 {
		t.Errorf("a view gave %v; want one item that has the labels namespace and workload only", list.Items)
	}

	in := func(name string) string { return filepath.Join(s.dir, name) }
	if err := s.ca.writeClient(pkix.Name{CommonName: "alice"}, in("alice.crt"), in("alice.key"), time.Now()); err != nil {
		t.Fatal(err)
	}
	foreign, err := newAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := foreign.writeClient(pkix.Name{CommonName: "mallory", Organization: []string{"system:masters"}}, in("mallory.crt"), in("mallory.key"), time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, user, metric, selector string
		want                         int
	}{
		{"an authorized client is served", "client", "predicted_load", "", http.StatusOK},
		{"a client without rights is forbidden", "alice", "predicted_load", "", http.StatusForbidden},
		{"a certificate of another authority is unauthorized", "mallory", "predicted_load", "", http.StatusUnauthorized},
		{"an unknown metric is not found", "client", "predicted_luck", "", http.StatusNotFound},
		{"a horizon beyond the rule's is a bad request", "client", "predicted_load", "horizon%3D1h", http.StatusBadRequest},
		{"an unparsable quantile is a bad request", "client", "predicted_load", "quantile%3Dhigh", http.StatusBadRequest},
	} {
		if code, _ := s.external(in(tt.user+".crt"), in(tt.user+".key"), "shop", tt.metric, tt.selector); code != tt.want {
			t.Errorf("%s: status %d; want %d", tt.name, code, tt.want)
		}
	}

	if code, body := s.get("/metrics"); code != http.StatusOK || !strings.Contains(body, `kubeforecaster_forecast{horizon="30s",metric="predicted_load",namespace="shop",quantile="0.9",workload="web"} 4`) {
		t.Errorf("/metrics is %d without the forecast of web:\n%s", code, body)
	}
	s.checkMetricsPage()
	if code, body := s.get("/-/ready"); code != http.StatusOK {
		t.Errorf("/-/ready is %d: %s", code, body)
	}
	if err := s.stop(); err != nil {
		t.Errorf("serve ended with %v; want a clean end", err)
	}
}

// checkMetricsPage holds docs/metrics.md against /metrics. A metric marked in
// the page may be absent, but then the code must name it.
func (s *stand) checkMetricsPage() {
	s.t.Helper()
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		s.t.Fatal(err)
	}
	documented := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(kubeforecaster_\\w+)`( †)? \\|").FindAllStringSubmatch(string(page), -1) {
		documented[m[1]] = m[2] == ""
	}
	_, body := s.get("/metrics")
	exposed := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (kubeforecaster_\w+)`).FindAllStringSubmatch(body, -1) {
		exposed[m[1]] = true
		if _, ok := documented[m[1]]; !ok {
			s.t.Errorf("%s is exposed but not in docs/metrics.md", m[1])
		}
	}
	source, err := os.ReadFile("../../forecaster/metrics.go")
	if err != nil {
		s.t.Fatal(err)
	}
	for name, always := range documented {
		if !exposed[name] && (always || !strings.Contains(string(source), name)) {
			s.t.Errorf("%s is in docs/metrics.md but not exposed", name)
		}
	}
}

func TestOutageOfPrometheusSilencesAndRecovers(t *testing.T) {
	s := startStand(t)
	s.eventually("a forecast of web", func() bool { return len(s.served("workload%3Dweb")) == 1 })

	if err := s.prometheus.Close(); err != nil {
		t.Fatal(err)
	}
	var origin time.Time // of the last forecast that was served
	s.eventually("an empty list", func() bool {
		_, list := s.external(s.files.clientCert, s.files.clientKey, "shop", "predicted_load", "workload%3Dweb")
		if len(list.Items) > 0 {
			origin = list.Items[0].Timestamp
		}
		return len(list.Items) == 0
	})
	if age := time.Since(origin); !origin.IsZero() && age < 20*time.Second {
		t.Errorf("silent when the forecast was %s old; want it served until max_age, 20s", age)
	}
	s.eventually("the silence in the log", func() bool { return strings.Contains(s.log.String(), "No fresh forecast") })
	if _, body := s.get("/metrics"); !strings.Contains(body, `kubeforecaster_forecast_series{metric="predicted_load"} 0`) ||
		!strings.Contains(body, `kubeforecaster_ticks_total{metric="predicted_load",outcome="error"}`) {
		t.Errorf("/metrics tells nothing of the outage:\n%s", body)
	}

	// A reload that needs no answer of Prometheus goes on, one that does is refused.
	s.write("config.yml", strings.ReplaceAll(testRules, "lead: 30s", "lead: 40s"))
	if code, body := fetch(t, http.MethodPost, "http://"+s.at.plain+"/-/reload"); code != http.StatusOK {
		t.Errorf("reload of a changed lead answered %d: %s", code, body)
	}
	s.write("config.yml", testRules+"  - {metric: predicted_other, expr: unchecked}\n")
	if code, body := fetch(t, http.MethodPost, "http://"+s.at.plain+"/-/reload"); code == http.StatusOK || !strings.Contains(body, "check new rules against Prometheus") {
		t.Errorf("reload of a rule that cannot be checked answered %d: %s", code, body)
	}
	if code, body := s.get("/-/ready"); code != http.StatusOK {
		t.Errorf("/-/ready is %d in an outage: %s", code, body)
	}

	target := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, "load{namespace=\"shop\",workload=\"web\"} 6\n")
	}))
	t.Cleanup(target.Close)
	s.startPrometheus(strings.TrimPrefix(s.prometheus.URL(), "http://"), strings.TrimPrefix(target.URL, "http://"))
	s.eventually("forecasts again", func() bool { return len(s.served("workload%3Dweb")) == 1 })
	s.eventually("the recovery in the log", func() bool { return strings.Contains(s.log.String(), "Forecasts are fresh again") })
}

func TestReloadTakesGoodFilesAndRefusesBadOnes(t *testing.T) {
	s := startStand(t)
	rules := func() string {
		_, body := s.get("/api/v1/forecasts?metric=predicted_other")
		return body
	}
	reload := func() (int, string) { return fetch(t, http.MethodPost, "http://"+s.at.plain+"/-/reload") }

	for name, bad := range map[string]struct{ file, want string }{
		"an unknown key":             {testRules + "    lvel: 0.9\n", `unknown key \"lvel\"; did you mean \"level\"?`},
		"PromQL that does not parse": {testRules + "  - {metric: predicted_other, expr: 'sum by ('}\n", "parse error"},
		"another Prometheus":         {testRules + "prometheus: {max_concurrent: 2}\n", "restart"},
	} {
		s.write("config.yml", bad.file)
		code, body := reload()
		if code < 400 || !strings.Contains(body, strings.ReplaceAll(bad.want, `\"`, `"`)) && !strings.Contains(body, bad.want) {
			t.Errorf("%s: reload answered %d %s; want a refusal with %s", name, code, body, bad.want)
		}
	}
	if _, body := s.get("/metrics"); !strings.Contains(body, "kubeforecaster_config_last_reload_successful 0") {
		t.Error("/metrics does not tell of the refused configuration")
	}
	if code, _ := s.external(s.files.clientCert, s.files.clientKey, "shop", "predicted_load", ""); code != http.StatusOK {
		t.Errorf("the old rule answers %d after refused reloads; want 200", code)
	}
	if got := rules(); !strings.Contains(got, "predicted_other") || !strings.Contains(got, "404") {
		t.Errorf("a refused rule is known: %s", got)
	}

	s.write("config.yml", testRules+"  - {metric: predicted_other, expr: load}\n")
	if code, body := reload(); code != http.StatusOK {
		t.Fatalf("reload of a good file answered %d: %s", code, body)
	}
	s.write("config.yml", strings.ReplaceAll(testRules, "predicted_load", "predicted_third"))
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	s.eventually("the rule of the file after SIGHUP", func() bool {
		code, _ := s.external(s.files.clientCert, s.files.clientKey, "shop", "predicted_third", "")
		return code == http.StatusOK
	})
}

// logBuffer is a bytes.Buffer that the server may write while the test reads.
type logBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
