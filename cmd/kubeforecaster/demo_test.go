package main

import (
	"context"
	"encoding/json"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/api/resource"
)

func TestDemoServesWhatItPrints(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "demo.json")
	for name, text := range map[string]string{stale: `{"rest": "http://127.0.0.1:1"}`, filepath.Join(dir, demoMarker): "", filepath.Join(dir, "server.key"): "old"} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	out, remarks, done := &logBuffer{}, &logBuffer{}, make(chan int, 1)
	go func() { done <- run(ctx, []string{"demo", "--dir", dir}, out, remarks, nil) }()
	s := &stand{t: t, log: remarks, files: demoFilesIn(dir)}
	s.eventually("the lines to paste", func() bool { return strings.Contains(out.String(), "Ctrl-C ends the demo") })

	var info demoInfo
	data, err := os.ReadFile(stale)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &info); err != nil {
		t.Fatal(err)
	}
	s.at = addresses{plain: strings.TrimPrefix(info.REST, "http://"), secure: strings.TrimPrefix(info.MetricsAPI, "https://")}
	s.checkKubeconfig(info)

	for _, name := range []string{"server.key", "client.key", "kubeconfig"} {
		if f, err := os.Stat(filepath.Join(dir, name)); err != nil || f.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v; want it to be there for its owner only", name, err)
		}
	}
	var refusal strings.Builder
	if code := run(context.Background(), []string{"demo", "--dir", dir}, io.Discard, &refusal, nil); code != exitFailed || !strings.Contains(refusal.String(), "another demo runs in "+dir) {
		t.Errorf("a second demo in the directory exited %d: %s", code, refusal.String())
	}

	lines := regexp.MustCompile(`(?m)^  (kubectl|curl) .*$`).FindAllString(out.String(), -1)
	if len(lines) != 3 || !strings.Contains(lines[0], "--kubeconfig "+info.Kubeconfig) || !strings.Contains(lines[1], info.MetricsAPI) || !strings.Contains(lines[2], info.Prometheus) {
		t.Errorf("lines to paste are %q; want kubectl, curl and PromQL with the addresses of demo.json", lines)
	}
	median, high := s.demoValue("workload=frontend,quantile=0.5"), s.demoValue("workload=frontend,quantile=0.95")
	if median < 0.5 || median > 10 || high < median {
		t.Errorf("frontend is forecast at %v cores, quantile 0.95 %v; want 0.5 to 10, and the quantile not below", median, high)
	}
	if n, err := countSeries(t.Context(), info.Prometheus, `kubeforecaster_forecast{namespace="shop",workload="frontend"}`); err != nil || n == 0 {
		t.Errorf("PromQL finds %d series of the forecast: %v", n, err)
	}
	_, list := s.external(info.ClientCert, info.ClientKey, "batch", "predicted_cpu_cores", "")
	if len(list.Items) == 0 {
		t.Error("no workload of batch is served")
	}
	cancel()
	select {
	case code := <-done:
		if code != exitOK {
			t.Errorf("demo exited %d:\n%s", code, remarks)
		}
	case <-time.After(patience):
		t.Fatal("demo does not end")
	}
}

// demoValue returns the one value of predicted_cpu_cores in shop that the
// selector gives.
func (s *stand) demoValue(selector string) float64 {
	s.t.Helper()
	code, list := s.external(s.files.clientCert, s.files.clientKey, "shop", "predicted_cpu_cores", url.QueryEscape(selector))
	if code != 200 || len(list.Items) != 1 {
		s.t.Fatalf("%s: status %d with %d items; want 200 with one", selector, code, len(list.Items))
	}
	q, err := resource.ParseQuantity(list.Items[0].Value)
	if err != nil {
		s.t.Fatal(err)
	}
	return q.AsApproximateFloat64()
}

// checkKubeconfig checks that the kubeconfig names the metrics API and holds
// the client's certificate.
func (s *stand) checkKubeconfig(info demoInfo) {
	s.t.Helper()
	data, err := os.ReadFile(info.Kubeconfig)
	if err != nil {
		s.t.Fatal(err)
	}
	var config struct {
		Clusters []struct{ Cluster struct{ Server string } }
		Users    []struct {
			User struct {
				Cert string `yaml:"client-certificate-data"`
			}
		}
	}
	if err := yaml.Unmarshal(data, &config); err != nil {
		s.t.Fatal(err)
	}
	if config.Clusters[0].Cluster.Server != info.MetricsAPI || config.Users[0].User.Cert == "" {
		s.t.Errorf("kubeconfig is %+v; want the server %s and a client certificate", config, info.MetricsAPI)
	}
}

func TestDemoOverwritesNothingOfOthers(t *testing.T) {
	dir := t.TempDir()
	precious := filepath.Join(dir, "prometheus", "data")
	if err := os.MkdirAll(precious, 0o755); err != nil {
		t.Fatal(err)
	}
	var refusal strings.Builder
	if code := run(context.Background(), []string{"demo", "--dir", dir}, io.Discard, &refusal, nil); code != exitFailed || !strings.Contains(refusal.String(), "was not made by a demo") {
		t.Errorf("demo exited %d: %s", code, refusal.String())
	}
	if _, err := os.Stat(precious); err != nil {
		t.Errorf("what was there is gone: %v", err)
	}
}

func TestShellWord(t *testing.T) {
	for name, want := range map[string]string{"/tmp/a-b_c.d": "/tmp/a-b_c.d", "/tmp/a b": "'/tmp/a b'", "/d'q": `'/d'\''q'`} {
		if got := shellWord(name); got != want {
			t.Errorf("shellWord(%q) = %s; want %s", name, got, want)
		}
	}
}

func TestRunTellsFailureFromMisuse(t *testing.T) {
	for _, tt := range []struct {
		args string
		want int
	}{
		{"--version", exitOK},
		{"demo --help", exitOK},
		{"fly", exitMisuse},
		{"demo now", exitMisuse},
		{"serve", exitMisuse},
		{"serve --config.file none.yml", exitFailed},
	} {
		if code := run(context.Background(), strings.Fields(tt.args), io.Discard, io.Discard, nil); code != tt.want {
			t.Errorf("kubeforecaster %s exited %d; want %d", tt.args, code, tt.want)
		}
	}
}
