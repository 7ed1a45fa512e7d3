package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/agnivade/levenshtein"
	promconfig "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
)

// config is the configuration file. Every key is described in
// docs/configuration.md.
type config struct {
	Prometheus   prometheusConfig `yaml:"prometheus"`
	Model        modelConfig      `yaml:"model"`
	Sync         syncConfig       `yaml:"sync"`
	DefaultRules bool             `yaml:"default_rules"`
	Rules        []ruleConfig     `yaml:"rules"`
}

type prometheusConfig struct {
	URL           string                      `yaml:"url"`
	Timeout       duration                    `yaml:"timeout"`
	MaxConcurrent int                         `yaml:"max_concurrent"`
	Params        map[string][]string         `yaml:"params"`
	AllowPartial  bool                        `yaml:"allow_partial"`
	HTTPClient    promconfig.HTTPClientConfig `yaml:"http_client"`
}

type modelConfig struct {
	Weights     string  `yaml:"weights"`
	DropoutRate float64 `yaml:"dropout_rate"`
}

type syncConfig struct {
	IntervalHours float64 `yaml:"interval_hours"`
}

type ruleConfig struct {
	Metric   string           `yaml:"metric"`
	Expr     string           `yaml:"expr"`
	With     string           `yaml:"with"`
	Step     *duration        `yaml:"step"`
	Lookback *duration        `yaml:"lookback"`
	Horizon  *duration        `yaml:"horizon"`
	Lead     *duration        `yaml:"lead"`
	Level    *float64         `yaml:"level"`
	MaxAge   *duration        `yaml:"max_age"`
	Floor    forecaster.Floor `yaml:"floor"`
}

// duration is a time.Duration as Prometheus writes it.
type duration time.Duration

// UnmarshalYAML implements yaml.Unmarshaler.
func (d *duration) UnmarshalYAML(n *yaml.Node) error {
	parsed, err := model.ParseDuration(n.Value)
	if err != nil {
		return fmt.Errorf("line %d: %q is no duration; want one such as 90s, 5m or 1h30m", n.Line, n.Value)
	}
	*d = duration(parsed)
	return nil
}

// defaultConfig is what an empty file means.
func defaultConfig() config {
	return config{
		Prometheus: prometheusConfig{
			Timeout:       duration(30 * time.Second),
			MaxConcurrent: 4,
			HTTPClient:    promconfig.DefaultHTTPClientConfig,
		},
		Model:        modelConfig{DropoutRate: 0.3},
		Sync:         syncConfig{IntervalHours: 6},
		DefaultRules: true,
	}
}

// loadConfig reads and checks a configuration file. An empty name gives the
// defaults.
func loadConfig(name string) (config, error) {
	if name == "" {
		return defaultConfig(), nil
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return config{}, fmt.Errorf("read configuration: %w", err)
	}
	c, err := parseConfig(data)
	if err != nil {
		return config{}, fmt.Errorf("configuration %s: %w", name, err)
	}
	c.Prometheus.HTTPClient.SetDirectory(filepath.Dir(name))
	if c.Model.Weights != "" && !filepath.IsAbs(c.Model.Weights) {
		c.Model.Weights = filepath.Join(filepath.Dir(name), c.Model.Weights)
	}
	return c, nil
}

// maxConfigBytes bounds the configuration file.
const maxConfigBytes = 1 << 20

func parseConfig(data []byte) (config, error) {
	if len(data) > maxConfigBytes {
		return config{}, fmt.Errorf("%d bytes are too many; want at most %d", len(data), maxConfigBytes)
	}
	c := defaultConfig()
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	switch err := d.Decode(&c); {
	case errors.Is(err, io.EOF): // An empty file: all defaults.
	case err != nil:
		return config{}, explainYAML(err)
	default:
		if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
			return config{}, errors.New("more than one YAML document; want one")
		}
	}
	return c, c.validate()
}

func (c config) validate() error {
	var errs []error
	if u, err := url.Parse(c.Prometheus.URL); c.Prometheus.URL != "" && (err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https") {
		errs = append(errs, fmt.Errorf("prometheus.url: %q is no URL; want one such as http://prometheus:9090", redacted(c.Prometheus.URL)))
	}
	if c.Prometheus.Timeout <= 0 {
		errs = append(errs, fmt.Errorf("prometheus.timeout: %s is out of range; want more than 0s", time.Duration(c.Prometheus.Timeout)))
	}
	if c.Prometheus.MaxConcurrent < 1 || c.Prometheus.MaxConcurrent > 64 {
		errs = append(errs, fmt.Errorf("prometheus.max_concurrent: %d is out of range; want 1 to 64", c.Prometheus.MaxConcurrent))
	}
	if r := c.Model.DropoutRate; !(r >= 0 && r <= 0.9) {
		errs = append(errs, fmt.Errorf("model.dropout_rate: %v is out of range; want 0 to 0.9", r))
	}
	if h := c.Sync.IntervalHours; !(h > 0 && h <= 24*31) {
		errs = append(errs, fmt.Errorf("sync.interval_hours: %v is out of range; want more than 0 and at most 744", h))
	}
	for _, r := range c.Rules {
		errs = append(errs, r.checkZeros())
	}
	if err := forecaster.CheckRules(c.rules()); err != nil {
		errs = append(errs, fmt.Errorf("rules: %w", err))
	}
	return errors.Join(errs...)
}

// rules returns the rules in force, defaults filled in: the built-in ones, if
// wanted, and those of the file, which replace a built-in one of their name.
func (c config) rules() []forecaster.Rule {
	var out []forecaster.Rule
	if c.DefaultRules {
		for _, r := range forecaster.DefaultRules() {
			if !slices.ContainsFunc(c.Rules, func(own ruleConfig) bool { return own.Metric == r.Metric }) {
				out = append(out, r.WithDefaults())
			}
		}
	}
	for _, r := range c.Rules {
		out = append(out, forecaster.Rule{
			Metric: r.Metric, Expr: r.Expr, With: r.With, Level: orZero(r.Level), Floor: r.Floor,
			Step: time.Duration(orZero(r.Step)), Lookback: time.Duration(orZero(r.Lookback)), Horizon: time.Duration(orZero(r.Horizon)),
			Lead: time.Duration(orZero(r.Lead)), MaxAge: time.Duration(orZero(r.MaxAge)),
		}.WithDefaults())
	}
	return out
}

func orZero[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// checkZeros refuses zeros that are written in the file: in a forecaster.Rule
// they would stand for the default.
func (r ruleConfig) checkZeros() error {
	var errs []error
	for _, key := range []struct {
		name  string
		value *duration
	}{{"step", r.Step}, {"lookback", r.Lookback}, {"horizon", r.Horizon}, {"lead", r.Lead}, {"max_age", r.MaxAge}} {
		if key.value != nil && *key.value == 0 {
			errs = append(errs, fmt.Errorf("rule %q: %s: 0s is out of range; want more, or leave the key out for the default", r.Metric, key.name))
		}
	}
	if r.Level != nil && *r.Level == 0 {
		errs = append(errs, fmt.Errorf("rule %q: level: 0 is out of range; want 0.1 to 0.99", r.Metric))
	}
	return errors.Join(errs...)
}

var unknownField = regexp.MustCompile(`^line (\d+): field (\S+) not found in type (\S+)$`)

// explainYAML turns what the YAML library says into what a person can act on.
func explainYAML(err error) error {
	var faults *yaml.TypeError
	if !errors.As(err, &faults) {
		return err
	}
	keys := map[string][]string{}
	collectKeys(reflect.TypeFor[config](), keys)
	var errs []error
	for _, fault := range faults.Errors {
		if m := unknownField.FindStringSubmatch(fault); m != nil {
			fault = fmt.Sprintf("line %s: unknown key %q%s", m[1], m[2], suggestion(m[2], keys[m[3]]))
		} else if m := wrongType.FindStringSubmatch(fault); m != nil {
			fault = fmt.Sprintf("line %s: %s is not what belongs here; want %s", m[1], m[2], plainType(m[3]))
		}
		errs = append(errs, errors.New(fault))
	}
	return errors.Join(errs...)
}

var wrongType = regexp.MustCompile(`^line (\d+): cannot unmarshal (?:!!\w+ )?(.+) into (\S+)$`)

// plainType says what a Go type is in a YAML file.
func plainType(t string) string {
	switch {
	case strings.HasPrefix(t, "[]"):
		return "a list"
	case strings.HasPrefix(t, "float"):
		return "a number"
	case strings.HasPrefix(t, "int"):
		return "a whole number"
	case t == "bool":
		return "true or false"
	case t == "string" || strings.HasSuffix(t, ".Floor"):
		return "text"
	}
	return "keys with values"
}

// collectKeys notes the YAML keys of t and of every struct in it by the name
// that the YAML library gives their type.
func collectKeys(t reflect.Type, keys map[string][]string) {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || keys[t.String()] != nil {
		return
	}
	names := []string{}
	for _, f := range reflect.VisibleFields(t) {
		if name, _, _ := strings.Cut(f.Tag.Get("yaml"), ","); name != "" && name != "-" {
			names = append(names, name)
		}
	}
	keys[t.String()] = names
	// Types such as HTTPClientConfig decode into a local twin of that name.
	twin := path.Base(t.PkgPath()) + ".plain"
	keys[twin] = append(keys[twin], names...)
	for _, f := range reflect.VisibleFields(t) {
		collectKeys(f.Type, keys)
	}
}

// suggestion names the nearest key when it is near enough to be meant, else all
// that there are.
func suggestion(key string, known []string) string {
	if len(known) == 0 {
		return ""
	}
	slices.Sort(known)
	known = slices.Compact(known)
	nearest := slices.MinFunc(known, func(a, b string) int {
		return cmp.Compare(levenshtein.ComputeDistance(key, a), levenshtein.ComputeDistance(key, b))
	})
	if levenshtein.ComputeDistance(key, nearest) <= max(1, len(key)/3) {
		return fmt.Sprintf("; did you mean %q?", nearest)
	}
	if len(known) > maxListed {
		return "" // The keys of several sections, of which most do not belong here.
	}
	return "; want one of " + strings.Join(known, ", ")
}

// maxListed is how many keys an error lists at most: no section has more.
const maxListed = 12
