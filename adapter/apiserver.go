package adapter

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/spf13/pflag"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	genericoptions "k8s.io/apiserver/pkg/server/options"
	"k8s.io/client-go/rest"
	openapicommon "k8s.io/kube-openapi/pkg/common"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/apiserver"
	openapicore "sigs.k8s.io/custom-metrics-apiserver/pkg/generated/openapi/core"
	openapimetrics "sigs.k8s.io/custom-metrics-apiserver/pkg/generated/openapi/externalmetrics"
	"sigs.k8s.io/custom-metrics-apiserver/pkg/provider"
)

const (
	// defaultSecurePort is one that needs no privileges.
	defaultSecurePort = 6443
	// apiRequestTimeout bounds a request and the wait for open ones at the end.
	// Answers come from memory; the HPA asks every 15 s.
	apiRequestTimeout = 15 * time.Second
	// kubeAnswerTimeout bounds the wait for the first byte of an answer of the
	// cluster's API server.
	kubeAnswerTimeout = 10 * time.Second
)

// APIServerOptions are what an APIServer is made of.
type APIServerOptions struct {
	Provider provider.ExternalMetricsProvider // required
	Name     string                           // title of the OpenAPI document; kubeforecaster when empty
	Version  string                           // of the program, for the OpenAPI document
	Logger   *slog.Logger                     // discards when nil
	// Flags say how to serve, authenticate and authorize; required. They belong
	// to one server.
	Flags *APIServerFlags
}

// APIServerFlags are the settings of an APIServer that an operator makes, under
// the names that every API server of Kubernetes has. They exist before the
// server, as flags are parsed before anything is built.
type APIServerFlags struct {
	serving        *genericoptions.SecureServingOptionsWithLoopback
	authentication *genericoptions.DelegatingAuthenticationOptions
	authorization  *genericoptions.DelegatingAuthorizationOptions
}

// NewAPIServerFlags returns the defaults.
func NewAPIServerFlags() *APIServerFlags {
	f := &APIServerFlags{
		serving:        genericoptions.NewSecureServingOptions().WithLoopback(),
		authentication: genericoptions.NewDelegatingAuthenticationOptions(),
		authorization:  genericoptions.NewDelegatingAuthorizationOptions(),
	}
	f.serving.BindPort = defaultSecurePort
	f.serving.ServerCert.CertDirectory = "" // A generated certificate stays in memory: the file system may be read-only.
	f.authentication.RemoteKubeConfigFileOptional = true
	f.authorization.RemoteKubeConfigFileOptional = true
	f.authentication.WithCustomRoundTripper(func(next http.RoundTripper) http.RoundTripper {
		return answerTimeout{next: next, timeout: kubeAnswerTimeout}
	})
	return f
}

// AddFlags adds the flags for secure serving, authentication and authorization
// to fs.
func (f *APIServerFlags) AddFlags(fs *pflag.FlagSet) {
	f.serving.AddFlags(fs)
	f.authentication.AddFlags(fs)
	f.authorization.AddFlags(fs)
	fs.Lookup("secure-port").Usage = "The port on which to serve HTTPS with authentication and authorization. If 0, a free port is taken."
	fs.Lookup("cert-dir").Usage = "The directory where the TLS certs are located, or generated when there are none. If empty, a generated certificate is kept in memory. " +
		"If --tls-cert-file and --tls-private-key-file are provided, this flag will be ignored."
}

// Set sets flags by name, as the command line would.
func (f *APIServerFlags) Set(values map[string]string) error {
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	f.AddFlags(fs)
	for name, value := range values {
		if err := fs.Set(name, value); err != nil {
			return err
		}
	}
	return nil
}

// APIServer serves external.metrics.k8s.io/v1beta1 over TLS, as an extension of
// the Kubernetes API.
//
// In a cluster, or with --authentication-kubeconfig and
// --authorization-kubeconfig, it asks the cluster's API server who a client is
// (TokenReview, and the certificate authorities in the config map
// extension-apiserver-authentication) and what the client may do
// (SubjectAccessReview). Without a cluster it trusts the client certificates of
// --client-ca-file and serves only members of system:masters. If there is
// neither, nobody could ever be let in, and Run fails.
//
// It is put together from the parts of custom-metrics-apiserver and not from its
// AdapterBase, which cannot start without a client of a cluster.
type APIServer struct {
	opts  APIServerOptions
	flags *APIServerFlags

	aggregator *authenticatorfactory.RequestHeaderConfig // who may speak for others; may be nil
	ready      chan struct{}                             // closed once the server answers
	addr       string                                    // set before ready is closed
}

// NewAPIServer returns a server that has not been started.
func NewAPIServer(o APIServerOptions) (*APIServer, error) {
	if o.Provider == nil || o.Flags == nil {
		return nil, errors.New("external metrics API server: Provider and Flags are required")
	}
	o.Name = cmp.Or(o.Name, "kubeforecaster")
	o.Version = cmp.Or(o.Version, "unversioned")
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	return &APIServer{opts: o, flags: o.Flags, ready: make(chan struct{})}, nil
}

// Ready returns a channel that is closed once the server answers.
func (s *APIServer) Ready() <-chan struct{} { return s.ready }

// Addr returns the address that the server listens on, such as "0.0.0.0:6443".
// It is empty until Ready.
func (s *APIServer) Addr() string {
	select {
	case <-s.ready:
		return s.addr
	default:
		return ""
	}
}

// Run serves until ctx is done and then waits for open requests, a quarter of a
// minute at most. It fails when flags are invalid, a file cannot be read, the
// address is taken or the cluster does not answer. Call it once.
func (s *APIServer) Run(ctx context.Context) error {
	server, err := s.build()
	if err != nil {
		s.closeListener()
		return fmt.Errorf("external metrics API server: %w", err)
	}
	s.addr = s.flags.serving.Listener.Addr().String()
	err = server.AddPostStartHook("kubeforecaster-ready", func(hook genericapiserver.PostStartHookContext) error {
		if s.awaitAggregator(hook) {
			s.opts.Logger.Info("External metrics API is served", "address", s.addr)
			close(s.ready)
		}
		return nil // The library ends the process on an error.
	})
	if err != nil {
		s.closeListener()
		return fmt.Errorf("external metrics API server: %w", err)
	}
	if err := server.PrepareRun().RunWithContext(ctx); err != nil {
		return fmt.Errorf("run external metrics API server: %w", err)
	}
	return nil
}

// awaitAggregator waits until the authority that vouches for the cluster's
// aggregator is known: it is looked up in the cluster and watched from then on.
// After a while it gives up waiting, as the library keeps trying. It reports
// false when ctx ended.
func (s *APIServer) awaitAggregator(ctx context.Context) bool {
	if s.aggregator == nil {
		return true
	}
	err := wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, kubeAnswerTimeout, true, func(context.Context) (bool, error) {
		_, known := s.aggregator.CAContentProvider.VerifyOptions()
		return known, nil
	})
	if err != nil && ctx.Err() == nil {
		s.opts.Logger.Warn("The cluster does not tell which authority vouches for its aggregator; requests through it are refused until it does")
	}
	return ctx.Err() == nil
}

// closeListener gives the port back after a failed start.
func (s *APIServer) closeListener() {
	if s.flags.serving.Listener == nil {
		return
	}
	if err := s.flags.serving.Listener.Close(); err != nil {
		s.opts.Logger.Debug("Closing the listener failed", "err", err)
	}
}

func (s *APIServer) build() (*genericapiserver.GenericAPIServer, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	if err := s.findCluster(); err != nil {
		return nil, err
	}
	if err := s.listenAnywhere(); err != nil {
		return nil, err
	}
	config, err := s.config()
	if err != nil {
		return nil, err
	}
	wrapped := &apiserver.Config{GenericConfig: config}
	// Without informers: the provider needs none, and each costs a watch.
	server, err := wrapped.Complete(nil).New(s.opts.Name, nil, s.opts.Provider)
	if err != nil {
		return nil, err
	}
	return server.GenericAPIServer, nil
}

func (s *APIServer) validate() error {
	var errs []error
	errs = append(errs, s.flags.serving.Validate()...)
	errs = append(errs, s.flags.authentication.Validate()...)
	errs = append(errs, s.flags.authorization.Validate()...)
	return utilerrors.NewAggregate(errs)
}

// findCluster settles whether there is a cluster to delegate to. In one, a
// client that cannot be made is an error and not a reason to go on without.
func (s *APIServer) findCluster() error {
	_, err := rest.InClusterConfig()
	outside := errors.Is(err, rest.ErrNotInCluster)
	s.flags.authentication.RemoteKubeConfigFileOptional = outside
	s.flags.authorization.RemoteKubeConfigFileOptional = outside
	if outside && s.flags.authorization.RemoteKubeConfigFile == "" {
		s.opts.Logger.Info("No cluster to ask for authorization: only members of system:masters are served")
	}
	if !outside || s.flags.authentication.RemoteKubeConfigFile != "" {
		return nil
	}
	if s.flags.authentication.ClientCert.ClientCA == "" && s.flags.authentication.RequestHeader.ClientCAFile == "" {
		return errors.New("nobody could be let in: this is not in a cluster, and no way to tell clients is set; " +
			"want --client-ca-file, or --authentication-kubeconfig and --authorization-kubeconfig")
	}
	s.flags.authentication.SkipInClusterLookup = true
	return nil
}

// listenAnywhere takes a free port where the port is 0, which the options of the
// generic server would take for "do not serve".
func (s *APIServer) listenAnywhere() error {
	if s.flags.serving.BindPort != 0 || s.flags.serving.Listener != nil {
		return nil
	}
	addr := net.JoinHostPort(s.flags.serving.BindAddress.String(), strconv.Itoa(s.flags.serving.BindPort))
	listener, port, err := genericoptions.CreateListener(s.flags.serving.BindNetwork, addr, net.ListenConfig{})
	if err != nil {
		return err
	}
	s.flags.serving.Listener, s.flags.serving.BindPort = listener, port
	return nil
}

// config is the generic server's configuration with what an adapter needs: no
// storage, admission, audit, profiling, or priority and fairness.
func (s *APIServer) config() (*genericapiserver.Config, error) {
	config := genericapiserver.NewConfig(apiserver.Codecs)
	config.EnableProfiling = false
	config.RequestTimeout = apiRequestTimeout
	if err := s.flags.serving.MaybeDefaultWithSelfSignedCerts("localhost", nil, []net.IP{net.IPv4(127, 0, 0, 1)}); err != nil {
		return nil, fmt.Errorf("generate a serving certificate: %w", err)
	}
	if err := s.flags.serving.ApplyTo(&config.SecureServing, &config.LoopbackClientConfig); err != nil {
		return nil, err
	}
	if err := s.flags.authentication.ApplyTo(&config.Authentication, config.SecureServing, nil); err != nil {
		return nil, err
	}
	s.aggregator = config.Authentication.RequestHeaderConfig
	if err := s.flags.authorization.ApplyTo(&config.Authorization); err != nil {
		return nil, err
	}
	namer := openapinamer.NewDefinitionNamer(apiserver.Scheme)
	config.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(definitions, namer)
	config.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(definitions, namer)
	config.OpenAPIConfig.Info.Title, config.OpenAPIConfig.Info.Version = s.opts.Name, s.opts.Version
	config.OpenAPIV3Config.Info.Title, config.OpenAPIV3Config.Info.Version = s.opts.Name, s.opts.Version
	return config, nil
}

// definitions are the OpenAPI definitions of the types that are served.
func definitions(ref openapicommon.ReferenceCallback) map[string]openapicommon.OpenAPIDefinition {
	out := openapicore.GetOpenAPIDefinitions(ref)
	maps.Copy(out, openapimetrics.GetOpenAPIDefinitions(ref))
	return out
}

// answerTimeout bounds the wait for the header of an answer, so that a cluster
// that accepts a connection and then says nothing does not hang the start. The
// body may take as long as it likes, as that of a watch does.
type answerTimeout struct {
	next    http.RoundTripper
	timeout time.Duration
}

// RoundTrip sends the request.
func (a answerTimeout) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	timer := time.AfterFunc(a.timeout, func() {
		cancel(fmt.Errorf("no answer within %s", a.timeout))
	})
	resp, err := a.next.RoundTrip(r.WithContext(ctx))
	if inTime := timer.Stop(); err != nil || !inTime {
		err = cmp.Or(context.Cause(ctx), err)
		cancel(err)
		if resp != nil {
			err = errors.Join(err, resp.Body.Close())
		}
		return nil, err
	}
	resp.Body = cancelOnClose{resp.Body, func() { cancel(nil) }}
	return resp, nil
}

type cancelOnClose struct {
	io.ReadCloser
	cancel func()
}

// Close closes the body and releases the context of its request.
func (c cancelOnClose) Close() error {
	defer c.cancel()
	return c.ReadCloser.Close()
}
