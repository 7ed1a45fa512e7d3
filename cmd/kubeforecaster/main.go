// Command kubeforecaster reads pod CPU and memory from Prometheus, forecasts
// them, and serves the forecasts as external metrics, so that autoscalers act
// before the load arrives.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
	"k8s.io/klog/v2"
)

// version is set by the linker.
var version = "dev"

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitMisuse = 2
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr, routeKubernetesLog)
	stop()
	os.Exit(code)
}

// routeKubernetesLog sends the log of the Kubernetes libraries, which is one for
// the whole process, to l.
func routeKubernetesLog(l *slog.Logger) { klog.SetSlogLogger(l.With("component", "apiserver")) }

// run is the whole program: it returns the exit code and touches nothing global.
// It calls logging, unless nil, with the logger that the flags choose.
func run(ctx context.Context, args []string, stdout, stderr io.Writer, logging func(*slog.Logger)) int {
	root := newRootCommand(logging)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(stderr, "error:", err)
	if _, misuse := errors.AsType[usageError](err); misuse {
		fmt.Fprintf(stderr, "Run '%s --help' for usage.\n", cmd.CommandPath())
		return exitMisuse
	}
	return exitFailed
}

// usageError is an error of the caller: of flags or arguments, not of the work.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usageErrorf(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

func newRootCommand(logging func(*slog.Logger)) *cobra.Command {
	var options logOptions
	root := &cobra.Command{
		Use:           "kubeforecaster",
		Short:         "The predictive metrics layer for Kubernetes",
		Long:          "kubeforecaster reads pod CPU and memory history from Prometheus, forecasts it with a\nCNN-LSTM, and serves the forecasts as external metrics, so that autoscalers act before\nthe load arrives.",
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          knownCommand,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			logger, err := options.logger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if logging != nil {
				logging(logger)
			}
			cmd.SetContext(withLogger(cmd.Context(), logger))
			return nil
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.PersistentFlags().StringVar(&options.level, "log.level", "info", "least severity that is logged: debug, info, warn or error")
	root.PersistentFlags().StringVar(&options.format, "log.format", "text", "format of the log: text or json")
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SuggestionsMinimumDistance = 2
	root.AddCommand(newServeCommand(), newDemoCommand(), newTrainCommand(), newDocsCommand())
	return root
}

// knownCommand refuses what is no subcommand as misuse, where cobra would call
// it a failure.
func knownCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := ""
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf("; did you mean %q?", near[0])
	}
	return usageErrorf("unknown command %q%s", args[0], hint)
}

// noArgs refuses arguments as misuse, where cobra.NoArgs would call them a
// failure.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageErrorf("%q takes no arguments, got %q", cmd.CommandPath(), args)
	}
	return nil
}

type logOptions struct{ level, format string }

func (o logOptions) logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(o.level)); err != nil {
		return nil, usageErrorf("--log.level: %q is unknown; want debug, info, warn or error", o.level)
	}
	opts := &slog.HandlerOptions{Level: level}
	switch o.format {
	case "text":
		return slog.New(slog.NewTextHandler(w, opts)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, opts)), nil
	}
	return nil, usageErrorf("--log.format: %q is unknown; want text or json", o.format)
}

type loggerKey struct{}

func withLogger(ctx context.Context, l *slog.Logger) context.Context {
	return context.WithValue(ctx, loggerKey{}, l)
}

// loggerFrom returns the logger that the root command made.
func loggerFrom(ctx context.Context) *slog.Logger {
	if l, ok := ctx.Value(loggerKey{}).(*slog.Logger); ok {
		return l
	}
	return slog.New(slog.DiscardHandler)
}
