package main

import (
	"context"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/kubeforecaster/kubeforecaster/prom/embedded"
)

var update = flag.Bool("update", false, "rewrite what scripts compare with")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"kubeforecaster": main})
}

// TestScripts runs the binary as users meet it. Scripts find a Prometheus at
// $PROMETHEUS and one that refuses every credential at $PROMETHEUS_401.
func TestScripts(t *testing.T) {
	p, err := embedded.Start(t.Context(), embedded.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	locked := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "who are you?", http.StatusUnauthorized)
	}))
	t.Cleanup(locked.Close)
	// The scripts run in parallel, and so outlive this function's cleanups were
	// they not in a group of their own.
	t.Run("script", func(t *testing.T) {
		testscript.Run(t, testscript.Params{
			Dir:           "testdata/script",
			UpdateScripts: *update,
			Setup: func(e *testscript.Env) error {
				e.Setenv("PROMETHEUS", p.URL())
				e.Setenv("PROMETHEUS_401", locked.URL)
				return nil
			},
		})
	})
}

// TestCommandLineReferenceGolden holds docs/cli.md to the binary.
func TestCommandLineReferenceGolden(t *testing.T) {
	var out, remarks strings.Builder
	if code := run(context.Background(), []string{"docs"}, &out, &remarks, nil); code != exitOK {
		t.Fatalf("docs exited %d: %s", code, remarks.String())
	}
	const name = "../../docs/cli.md"
	if *update {
		if err := os.WriteFile(name, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if out.String() != string(want) {
		t.Error("docs/cli.md is not what the binary prints; run `make generate`")
	}
}
