package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/kubeforecaster/kubeforecaster/adapter"
	"github.com/kubeforecaster/kubeforecaster/internal/clustersim"
	"github.com/kubeforecaster/kubeforecaster/prom/embedded"
)

const (
	// demoHistory is how much load the demo back-fills.
	demoHistory = 3 * 24 * time.Hour
	// demoResolution is the spacing of the back-filled samples.
	demoResolution = time.Minute
	// demoScrapeInterval is how often the live cluster is scraped, and
	// demoForecastInterval how often the forecasts are.
	demoScrapeInterval   = 15 * time.Second
	demoForecastInterval = 5 * time.Second
	// demoFirstForecast bounds the wait for the first forecast to be visible.
	demoFirstForecast = 2 * time.Minute
)

type demoOptions struct {
	dir  string
	seed uint64
}

func newDemoCommand() *cobra.Command {
	var o demoOptions
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Serve forecasts of a simulated cluster on an embedded Prometheus",
		Long: "Demo is serve with everything it needs in the same process: a simulated cluster, and a\n" +
			"Prometheus with three days of its history that scrapes it. It listens on loopback only,\n" +
			"writes DIR/kubeconfig and DIR/demo.json, and prints lines to paste. Ctrl-C ends it.",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return unlessInterrupted(cmd.Context(), runDemo(cmd.Context(), o, cmd.OutOrStdout()))
		},
	}
	cmd.Flags().StringVar(&o.dir, "dir", "", "directory for the kubeconfig, certificates and Prometheus' data; a temporary one when empty")
	cmd.Flags().Uint64Var(&o.seed, "seed", 1, "seed of the simulated load")
	return cmd
}

// Names in the demo's directory: of demoInfo, and of Prometheus' database.
const (
	infoFile      = "demo.json"
	prometheusDir = "prometheus"
)

// demoInfo tells where the demo answers.
type demoInfo struct {
	Kubeconfig string `json:"kubeconfig"`
	MetricsAPI string `json:"metrics_api"` // external metrics API, TLS, client certificate
	REST       string `json:"rest"`        // REST API, /metrics, health
	Prometheus string `json:"prometheus"`
	CA         string `json:"ca"`
	ClientCert string `json:"client_cert"`
	ClientKey  string `json:"client_key"`
}

func runDemo(ctx context.Context, o demoOptions, out io.Writer) (err error) {
	dir, cleanup, err := demoDir(o.dir)
	if err != nil {
		return err
	}
	defer cleanup()
	files := demoFilesIn(dir)
	if _, err := files.writeCertificates(time.Now()); err != nil {
		return err
	}
	cluster, err := startCluster(ctx, o.seed)
	if err != nil {
		return err
	}
	defer cluster.close()
	prometheus, err := cluster.startPrometheus(ctx, filepath.Join(dir, prometheusDir), out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, prometheus.Close()) }()

	flags := adapter.NewAPIServerFlags()
	if err := flags.Set(map[string]string{
		"bind-address": "127.0.0.1", "secure-port": "0",
		"tls-cert-file": files.serverCert, "tls-private-key-file": files.serverKey, "client-ca-file": files.ca,
	}); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	serving := make(chan addresses, 1)
	g.Go(func() error {
		return serve(ctx, serveOptions{
			prometheusURL: prometheus.URL(), listen: "127.0.0.1:0", startupTimeout: time.Minute, api: flags,
		}, func(a addresses) { serving <- a })
	})
	g.Go(func() error {
		select {
		case a := <-serving:
			return welcome(ctx, a, files, prometheus, cluster, dir, out)
		case <-ctx.Done():
			return nil
		}
	})
	return g.Wait()
}

// demoDir returns the directory to use and what to do with it at the end.
func demoDir(dir string) (string, func(), error) {
	if dir == "" {
		dir, err := os.MkdirTemp("", "kubeforecaster-demo-")
		return dir, func() { _ = os.RemoveAll(dir) }, err // Nothing to do about a leftover in the temporary directory.
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", nil, err
	}
	lock, err := lockDemoDir(dir)
	if err != nil {
		return "", nil, err
	}
	// History is generated up to now; that of an earlier demo would contradict
	// it, and its addresses and keys are not those of this one.
	for _, name := range demoNames(dir) {
		if err := os.RemoveAll(name); err != nil {
			return "", nil, errors.Join(err, lock.Close())
		}
	}
	return dir, func() { _ = lock.Close() }, nil // The lock goes with the process anyway.
}

// demoMarker is the file that tells a directory of the demo's from others, and
// that is locked while a demo runs there.
const demoMarker = ".kubeforecaster-demo"

// lockDemoDir makes dir the demo's own for as long as the file is open. It
// refuses a directory where another demo runs, and one where the demo would
// overwrite what is not its own.
func lockDemoDir(dir string) (*os.File, error) {
	marker := filepath.Join(dir, demoMarker)
	if _, err := os.Stat(marker); errors.Is(err, fs.ErrNotExist) {
		for _, name := range demoNames(dir) {
			if _, err := os.Lstat(name); err == nil {
				return nil, fmt.Errorf("%s is there already and was not made by a demo; want another --dir", name)
			}
		}
	}
	lock, err := os.OpenFile(marker, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another demo runs in %s; want another --dir", dir), lock.Close())
	}
	return lock, nil
}

// demoNames are all that the demo writes in dir.
func demoNames(dir string) []string {
	f := demoFilesIn(dir)
	return []string{
		filepath.Join(dir, prometheusDir), filepath.Join(dir, infoFile),
		f.ca, f.serverCert, f.serverKey, f.clientCert, f.clientKey, f.kubeconfig,
	}
}

// welcome waits until Prometheus holds a forecast, then writes the files and
// prints the lines to paste.
func welcome(ctx context.Context, a addresses, files demoFiles, p *embedded.Server, c *cluster, dir string, out io.Writer) error {
	if err := p.SetScrapes(append(c.scrapes(), embedded.Scrape{Job: "kubeforecaster", Target: a.plain, Interval: demoForecastInterval, HonorLabels: true})); err != nil {
		return err
	}
	if err := files.writeKubeconfig(a.secure); err != nil {
		return err
	}
	info := demoInfo{
		Kubeconfig: files.kubeconfig, MetricsAPI: "https://" + a.secure, REST: "http://" + a.plain, Prometheus: p.URL(),
		CA: files.ca, ClientCert: files.clientCert, ClientKey: files.clientKey,
	}
	data, err := json.MarshalIndent(info, "", "  ")
	if err != nil {
		return err
	}
	const query = `kubeforecaster_forecast{namespace="shop",workload="frontend"}`
	if err := awaitSeries(ctx, p.URL(), query); err != nil {
		return err
	}
	// The file appears last: who waits for it finds everything at work.
	if err := os.WriteFile(filepath.Join(dir, infoFile), append(data, '\n'), 0o644); err != nil {
		return err
	}
	const path = "/apis/external.metrics.k8s.io/v1beta1/namespaces/shop/predicted_cpu_cores?labelSelector=workload%3Dfrontend"
	fmt.Fprintf(out, "\nForecasts are served. Paste one of these lines into another terminal:\n\n")
	fmt.Fprintf(out, "  kubectl --kubeconfig %s get --raw '%s'\n", shellWord(files.kubeconfig), path)
	fmt.Fprintf(out, "  curl -s --cacert %s --cert %s --key %s '%s%s'\n",
		shellWord(files.ca), shellWord(files.clientCert), shellWord(files.clientKey), info.MetricsAPI, path)
	fmt.Fprintf(out, "  curl -sG %s/api/v1/query --data-urlencode 'query=%s'\n\n", info.Prometheus, query)
	fmt.Fprintf(out, "REST API and its documentation: %s/docs\nCtrl-C ends the demo.\n", info.REST)
	return nil
}

// shellWord quotes a file name for a shell where it needs that.
func shellWord(name string) string {
	plain := func(c rune) bool {
		return strings.ContainsRune("/._-+@", c) || unicode.IsLetter(c) || unicode.IsDigit(c)
	}
	if !strings.ContainsFunc(name, func(c rune) bool { return !plain(c) }) {
		return name
	}
	return "'" + strings.ReplaceAll(name, "'", `'\''`) + "'"
}

// awaitSeries waits until the query returns something.
func awaitSeries(ctx context.Context, base, query string) error {
	limit, cancel := context.WithTimeout(ctx, demoFirstForecast)
	defer cancel()
	for limit.Err() == nil {
		if n, err := countSeries(limit, base, query); err == nil && n > 0 {
			return nil
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-limit.Done():
		}
	}
	if ctx.Err() != nil {
		return nil // The demo ends; there is nothing left to wait for.
	}
	return fmt.Errorf("no forecast after %s", demoFirstForecast)
}

func countSeries(ctx context.Context, base, query string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/api/v1/query?query="+url.QueryEscape(query), nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }() // Read to its end or not wanted any more.
	var answer struct {
		Data struct {
			Result []json.RawMessage `json:"result"`
		} `json:"data"`
	}
	err = json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&answer)
	return len(answer.Data.Result), err
}

// cluster is the simulated cluster and the port that its metrics are on.
type cluster struct {
	sim    *clustersim.Sim
	server *http.Server
	target string
}

func startCluster(ctx context.Context, seed uint64) (*cluster, error) {
	sim, err := clustersim.New(clustersim.Options{Seed: seed, History: demoHistory})
	if err != nil {
		return nil, err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &cluster{sim: sim, server: &http.Server{Handler: sim.Handler(), ReadHeaderTimeout: 5 * time.Second}, target: listener.Addr().String()}
	go func() { _ = c.server.Serve(listener) }() // Ends with close; a scrape that fails shows up in Prometheus.
	return c, nil
}

func (c *cluster) close() { _ = c.server.Close() }

// startPrometheus starts a Prometheus that has the cluster's history and
// scrapes what follows.
func (c *cluster) startPrometheus(ctx context.Context, dir string, out io.Writer) (*embedded.Server, error) {
	p, err := embedded.Start(ctx, embedded.Options{Dir: dir})
	if err != nil {
		return nil, err
	}
	if err := c.backfill(ctx, p, out); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	if err := p.SetScrapes(c.scrapes()); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func (c *cluster) backfill(ctx context.Context, p *embedded.Server, out io.Writer) error {
	started := time.Now()
	labels := func(job string) map[string]string { return map[string]string{"job": job, "instance": c.target} }
	history, err := c.sim.Backfill(demoResolution, clustersim.Targets{
		CAdvisor: labels(jobKubelet), KubeStateMetrics: labels(jobKubeStateMetrics),
	})
	if err != nil {
		return err
	}
	samples, series := 0, make([]embedded.Series, len(history))
	for i, s := range history {
		series[i] = embedded.Series(s)
		samples += len(s.Values)
	}
	if err := p.Append(ctx, series); err != nil {
		return err
	}
	fmt.Fprintf(out, "Prometheus holds %s of %d workloads: %d series, %d samples, back-filled in %s.\n",
		demoHistory, len(c.sim.Workloads()), len(series), samples, time.Since(started).Round(10*time.Millisecond))
	return nil
}

// The jobs of the scrapes, in history and live.
const (
	jobKubelet          = "kubelet"
	jobKubeStateMetrics = "kube-state-metrics"
)

func (c *cluster) scrapes() []embedded.Scrape {
	return []embedded.Scrape{
		{Job: jobKubelet, Target: c.target, Path: "/metrics/cadvisor", Interval: demoScrapeInterval},
		{Job: jobKubeStateMetrics, Target: c.target, Path: "/metrics/kube-state-metrics", Interval: demoScrapeInterval},
	}
}
