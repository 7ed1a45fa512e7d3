package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
)

func TestGoodConfigsLoad(t *testing.T) {
	for _, name := range configs(t, "good") {
		if _, err := loadConfig(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A bad file begins with a comment for every line of the error it must give.
func TestBadConfigsSayWhatIsWrong(t *testing.T) {
	for _, name := range configs(t, "bad") {
		t.Run(filepath.Base(name), func(t *testing.T) {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			_, err = loadConfig(name)
			if err == nil {
				t.Fatal("loaded without an error")
			}
			wants := 0
			for line := range strings.Lines(string(data)) {
				if want, ok := strings.CutPrefix(line, "# error: "); ok {
					wants++
					if want = strings.TrimSpace(want); !strings.Contains(err.Error(), want) {
						t.Errorf("error is\n%v\nwant one with\n%s", err, want)
					}
				}
			}
			if wants == 0 {
				t.Error("the file names no error that it must give")
			}
			if !strings.Contains(err.Error(), name) {
				t.Errorf("error %q does not name the file", err)
			}
		})
	}
}

func configs(t *testing.T, kind string) []string {
	t.Helper()
	names, err := filepath.Glob("testdata/config/*." + kind + ".yml")
	if err != nil || len(names) == 0 {
		t.Fatalf("no %s configurations found: %v", kind, err)
	}
	return names
}

func TestConfigDefaults(t *testing.T) {
	c, err := loadConfig("")
	if err != nil {
		t.Fatal(err)
	}
	if c.Model.DropoutRate != 0.3 || c.Sync.IntervalHours != 6 || time.Duration(c.Prometheus.Timeout) != 30*time.Second {
		t.Errorf("defaults are dropout %v, interval %v h, timeout %s; want 0.3, 6, 30s", c.Model.DropoutRate, c.Sync.IntervalHours, time.Duration(c.Prometheus.Timeout))
	}
	var got []string
	for _, r := range c.rules() {
		got = append(got, r.Metric)
	}
	want := []string{"predicted_cpu_cores", "predicted_memory_bytes", "predicted_container_cpu_cores", "predicted_container_memory_bytes"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rules without a file (-want +got):\n%s", diff)
	}
	if err := c.validate(); err != nil {
		t.Errorf("defaults are refused: %v", err)
	}
}

func TestOwnRulesReplaceBuiltInOnesOfTheirName(t *testing.T) {
	c, err := loadConfig("testdata/config/full.good.yml")
	if err != nil {
		t.Fatal(err)
	}
	by := map[string]forecaster.Rule{}
	for _, r := range c.rules() {
		by[r.Metric] = r
	}
	want := forecaster.Rule{
		Metric: "predicted_cpu_cores", Expr: "sum by (namespace, workload) (my_cpu)", With: "predicted_memory_bytes",
		Step: time.Minute, Lookback: 3 * time.Hour, Horizon: 10 * time.Minute, Lead: 4 * time.Minute,
		Level: 0.95, MaxAge: 3 * time.Minute, Floor: forecaster.FloorNone,
	}
	if diff := cmp.Diff(want, by["predicted_cpu_cores"]); diff != "" {
		t.Errorf("own rule (-want +got):\n%s", diff)
	}
	if len(by) != 5 {
		t.Errorf("%d rules; want the four built-in names and one of the file's own", len(by))
	}
	if got := by["queue_length"].Step; got != 5*time.Minute {
		t.Errorf("step of queue_length is %s; want 5m", got)
	}
	if c.Prometheus.HTTPClient.BasicAuth.PasswordFile != filepath.Join("testdata", "config", "password") {
		t.Errorf("password file is %q; want it beside the configuration", c.Prometheus.HTTPClient.BasicAuth.PasswordFile)
	}
}

func TestOversizedConfigIsRefused(t *testing.T) {
	if _, err := parseConfig(make([]byte, maxConfigBytes+1)); err == nil || !strings.Contains(err.Error(), "bytes are too many") {
		t.Errorf("error is %v; want one about the size", err)
	}
}

func FuzzParseConfig(f *testing.F) {
	names, _ := filepath.Glob("testdata/config/*.yml")
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseConfig(data)
		if err == nil && forecaster.CheckRules(c.rules()) != nil {
			t.Errorf("a configuration with bad rules was accepted:\n%s", data)
		}
	})
}
