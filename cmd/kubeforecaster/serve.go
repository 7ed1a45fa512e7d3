package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"reflect"
	"sync"
	"syscall"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/kubeforecaster/kubeforecaster/adapter"
	"github.com/kubeforecaster/kubeforecaster/forecaster"
	"github.com/kubeforecaster/kubeforecaster/forecaster/cnnlstm"
	"github.com/kubeforecaster/kubeforecaster/prom"
	"github.com/kubeforecaster/kubeforecaster/weights"
)

// shutdownTimeout bounds how long open requests of the plain port may take to
// end.
const shutdownTimeout = 10 * time.Second

// serveOptions are the flags of serve.
type serveOptions struct {
	configFile     string
	prometheusURL  string // replaces the file's
	listen         string
	startupTimeout time.Duration
	api            *adapter.APIServerFlags
}

func newServeCommand() *cobra.Command {
	o := serveOptions{api: adapter.NewAPIServerFlags()}
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Forecast what Prometheus knows and serve it to autoscalers",
		Long: "Serve reads history from Prometheus, forecasts it every step, and answers the external\n" +
			"metrics API over TLS, and /metrics, the REST API and health checks on a plain port.",
		Example: "  kubeforecaster serve --prometheus.url http://prometheus:9090",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return unlessInterrupted(cmd.Context(), serve(cmd.Context(), o, nil))
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&o.configFile, "config.file", "", "configuration file, read again on SIGHUP and POST /-/reload; all defaults when empty")
	fs.StringVar(&o.prometheusURL, "prometheus.url", "", "URL of Prometheus; takes the place of prometheus.url in the file")
	fs.StringVar(&o.listen, "listen", ":8080", "address of the plain port: /metrics, REST API, health")
	fs.DurationVar(&o.startupTimeout, "startup.timeout", time.Minute, "how long to wait at the start for a Prometheus that does not answer")
	o.api.AddFlags(fs)
	return cmd
}

// unlessInterrupted is err, or nil when the caller ended what runs until then.
func unlessInterrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// addresses tell where a service answers.
type addresses struct {
	plain  string // host:port
	secure string // host:port
}

// service is what serve builds and what a reload touches.
type service struct {
	opts    serveOptions
	logger  *slog.Logger
	client  *prom.Client
	manager *forecaster.Manager

	reloading     sync.Mutex // one reload at a time
	config        config     // as it was read: never handed to a client, which may write to what it gets
	reloadOK      prometheus.Gauge
	reloadSeconds prometheus.Gauge
}

// serve runs the adapter until ctx is done. It calls ready, which may be nil,
// once both ports answer.
func serve(ctx context.Context, o serveOptions, ready func(addresses)) error {
	logger := loggerFrom(ctx)
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP) // First, so that a signal during the start does not end the process.
	defer signal.Stop(hangup)
	c, err := o.load()
	if err != nil {
		return err
	}
	asRead, err := o.load()
	if err != nil {
		return err
	}
	model, err := loadModel(c.Model.Weights)
	if err != nil {
		return err
	}
	registry := newRegistry()
	client, err := newPromClient(c.Prometheus, logger, registry)
	if err != nil {
		return err
	}
	logger.Info("Starting", "version", version, "model", model.Version(), "rules", len(c.rules()), "prometheus", redacted(c.Prometheus.URL))
	if err := awaitPrometheus(ctx, client, c.rules(), o.startupTimeout, logger); err != nil {
		return err
	}
	store := &forecaster.Store{}
	manager, err := forecaster.NewManager(forecaster.ManagerOptions{
		Rules: c.rules(), Query: client.QueryRange, Model: model, Store: store, Logger: logger, Registerer: registry,
	})
	if err != nil {
		return err
	}
	s := &service{opts: o, logger: logger, client: client, manager: manager, config: asRead}
	s.register(registry)

	collector, err := adapter.NewCollector(adapter.CollectorOptions{Store: store})
	if err != nil {
		return err
	}
	registry.MustRegister(collector)
	provider, err := adapter.NewProvider(adapter.ProviderOptions{Store: store})
	if err != nil {
		return err
	}
	api, err := adapter.NewAPIServer(adapter.APIServerOptions{Flags: o.api, Provider: provider, Version: version, Logger: logger})
	if err != nil {
		return err
	}
	handler, err := adapter.NewHandler(adapter.HandlerOptions{
		Store: store, Model: func() forecaster.Model { return model }, Gatherer: registry, Ready: manager.Ready, Reload: s.reload,
		Version: version, Logger: logger, Registerer: registry,
	})
	if err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", o.listen)
	if err != nil {
		return fmt.Errorf("listen on the plain port: %w", err)
	}

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return manager.Run(ctx) })
	g.Go(func() error { return api.Run(ctx) })
	g.Go(func() error { return serveHTTP(ctx, listener, adapter.NewServer(o.listen, handler, logger), logger) })
	g.Go(func() error { return s.reloadOn(ctx, hangup) })
	g.Go(func() error {
		select {
		case <-api.Ready():
			if ready != nil {
				ready(addresses{plain: listener.Addr().String(), secure: api.Addr()})
			}
		case <-ctx.Done():
		}
		return nil
	})
	return g.Wait()
}

// load reads the configuration file and lays the flags over it.
func (o serveOptions) load() (config, error) {
	if o.startupTimeout <= 0 {
		return config{}, usageErrorf("--startup.timeout: %s is out of range; want more than 0s", o.startupTimeout)
	}
	c, err := loadConfig(o.configFile)
	if err != nil {
		return config{}, err
	}
	if o.prometheusURL != "" {
		c.Prometheus.URL = o.prometheusURL
	}
	if c.Prometheus.URL == "" {
		return config{}, usageErrorf("no Prometheus: want --prometheus.url, or prometheus.url in the configuration file")
	}
	return c, c.validate()
}

// loadModel loads the network from a weights file, or the embedded base weights
// when there is none.
func loadModel(file string) (*cnnlstm.Model, error) {
	if file == "" {
		return cnnlstm.Load(weights.Base())
	}
	f, err := weights.ReadFile(file)
	if err != nil {
		return nil, err
	}
	m, err := cnnlstm.New(f)
	if err != nil {
		return nil, fmt.Errorf("weights %s: %w", file, err)
	}
	return m, nil
}

func newRegistry() *prometheus.Registry {
	r := prometheus.NewRegistry()
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	promauto.With(r).NewGaugeVec(prometheus.GaugeOpts{
		Name: "kubeforecaster_build_info", Help: "The version that runs; always 1.",
	}, []string{"version"}).WithLabelValues(version).Set(1)
	return r
}

func newPromClient(c prometheusConfig, logger *slog.Logger, r prometheus.Registerer) (*prom.Client, error) {
	return prom.New(prom.Options{
		URL: c.URL, HTTPClient: c.HTTPClient, Params: url.Values(c.Params),
		Timeout: time.Duration(c.Timeout), MaxConcurrent: c.MaxConcurrent, AllowPartial: c.AllowPartial, Logger: logger, Registerer: r,
	})
}

// awaitPrometheus checks every rule against Prometheus, so that a wrong URL, a
// refused credential or an expression that does not parse is found now and not
// when scaling needs it. It waits up to limit for a server that does not answer.
func awaitPrometheus(ctx context.Context, client *prom.Client, rules []forecaster.Rule, limit time.Duration, logger *slog.Logger) error {
	for _, r := range rules {
		err := awaitRule(ctx, client, r, limit, logger)
		if err != nil {
			return fmt.Errorf("check rules against Prometheus: %w", err)
		}
	}
	return nil
}

func awaitRule(ctx context.Context, client *prom.Client, r forecaster.Rule, limit time.Duration, logger *slog.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		err := checkRule(ctx, client, r)
		if err != nil && !outage(err) {
			err = backoff.Permanent(err)
		}
		return struct{}{}, err
	}, backoff.WithMaxElapsedTime(limit), backoff.WithNotify(func(err error, wait time.Duration) {
		logger.Warn("Prometheus does not answer; trying again", "err", err, "in", wait.Round(time.Millisecond))
	}))
	return err
}

// outage reports whether err may go away by itself.
func outage(err error) bool {
	return errors.Is(err, prom.ErrUnreachable) || errors.Is(err, prom.ErrUnavailable)
}

func checkRule(ctx context.Context, client *prom.Client, r forecaster.Rule) error {
	if err := client.Check(ctx, r.Expr); err != nil {
		return fmt.Errorf("%s: %w", r.Metric, err)
	}
	return nil
}

func serveHTTP(ctx context.Context, l net.Listener, s *http.Server, logger *slog.Logger) error {
	logger.Info("Plain port is served", "address", l.Addr().String())
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		// The parent is done; open requests still get their time.
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
		defer cancel()
		if err := s.Shutdown(grace); err != nil {
			logger.Warn("Requests were cut off at the end", "err", err)
			stopped <- s.Close()
			return
		}
		stopped <- nil
	}()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the plain port: %w", err)
	}
	return <-stopped
}

func (s *service) register(r prometheus.Registerer) {
	f := promauto.With(r)
	s.reloadOK = f.NewGauge(prometheus.GaugeOpts{
		Name: "kubeforecaster_config_last_reload_successful", Help: "Whether the last reload of the configuration was accepted.",
	})
	s.reloadSeconds = f.NewGauge(prometheus.GaugeOpts{
		Name: "kubeforecaster_config_last_reload_success_timestamp_seconds", Help: "Time of the last accepted configuration.",
	})
	s.reloadOK.Set(1)
	s.reloadSeconds.SetToCurrentTime()
}

func (s *service) reloadOn(ctx context.Context, hangup <-chan os.Signal) error {
	for {
		select {
		case <-hangup:
			// Reload reports failure itself, and the old configuration stays.
			_ = s.reload(ctx)
		case <-ctx.Done():
			return nil
		}
	}
}

// reload reads the configuration file again and puts its rules in force. A file
// at fault is refused whole, and nothing changes.
func (s *service) reload(ctx context.Context) error {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	if err := s.tryReload(ctx); err != nil {
		s.reloadOK.Set(0)
		s.logger.Error("Configuration refused; the old one stays", "err", err)
		return err
	}
	s.reloadOK.Set(1)
	s.reloadSeconds.SetToCurrentTime()
	s.logger.Info("Configuration reloaded", "rules", len(s.config.rules()))
	return nil
}

// reloadCheckTimeout bounds the questions that a reload asks of Prometheus.
const reloadCheckTimeout = 30 * time.Second

func (s *service) tryReload(ctx context.Context) error {
	c, err := s.opts.load()
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(c.Prometheus, s.config.Prometheus) || c.Model != s.config.Model || c.Sync != s.config.Sync {
		return errors.New("the sections prometheus, model and sync cannot change while the process runs; restart it for that")
	}
	if err := s.checkNew(ctx, c.rules()); err != nil {
		return err
	}
	if err := s.manager.SetRules(c.rules()); err != nil {
		return err
	}
	s.config = c
	return nil
}

// checkNew checks the expressions that are not at work yet against Prometheus,
// several at a time. An outage does not keep a file with the old ones out.
func (s *service) checkNew(ctx context.Context, rules []forecaster.Rule) error {
	ctx, cancel := context.WithTimeout(ctx, reloadCheckTimeout)
	defer cancel()
	known := map[string]bool{}
	for _, r := range s.config.rules() {
		known[r.Expr] = true
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for _, r := range rules {
		if !known[r.Expr] {
			g.Go(func() error { return checkRule(ctx, s.client, r) })
		}
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("check new rules against Prometheus: %w", err)
	}
	return nil
}

// redacted is a URL fit for a log.
func redacted(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "(unreadable)"
	}
	return u.Redacted()
}
