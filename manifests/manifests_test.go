// Package manifests_test checks that the manifests are what Kubernetes takes
// and that they fit together.
package manifests_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/kubernetes/scheme"
	"sigs.k8s.io/yaml"
)

// apiService is the APIService as far as the manifests use it.
type apiService struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   metadata `json:"metadata"`
	Spec       struct {
		Group                string `json:"group"`
		Version              string `json:"version"`
		GroupPriorityMinimum int32  `json:"groupPriorityMinimum"`
		VersionPriority      int32  `json:"versionPriority"`
		CABundle             []byte `json:"caBundle"`
		Service              struct {
			Name      string `json:"name"`
			Namespace string `json:"namespace"`
			Port      int32  `json:"port"`
		} `json:"service"`
	} `json:"spec"`
}

type metadata struct {
	Name        string            `json:"name"`
	Namespace   string            `json:"namespace"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

// kustomization is a kustomization file as far as the manifests use it.
type kustomization struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Resources  []string `json:"resources"`
	Patches    []struct {
		Path string `json:"path"`
	} `json:"patches"`
}

// documents returns the YAML documents of a file.
func documents(t *testing.T, name string) [][]byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Split(data, []byte("\n---\n"))
}

func decodeStrictly(t *testing.T, name string, data []byte, into any) {
	t.Helper()
	if err := yaml.UnmarshalStrict(data, into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// objects decodes a file strictly: a field that Kubernetes does not know fails
// the test.
func objects(t *testing.T, name string) []runtime.Object {
	t.Helper()
	codecs := serializer.NewCodecFactory(scheme.Scheme, serializer.EnableStrict)
	var out []runtime.Object
	for _, data := range documents(t, name) {
		o, _, err := codecs.UniversalDeserializer().Decode(data, nil, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		out = append(out, o)
	}
	return out
}

// only returns the one object of its type in a file.
func only[T runtime.Object](t *testing.T, name string) T {
	t.Helper()
	var found []T
	for _, o := range objects(t, name) {
		if typed, ok := o.(T); ok {
			found = append(found, typed)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%s holds %d objects of type %T; want 1", name, len(found), *new(T))
	}
	return found[0]
}

func TestEveryManifestIsStrictlyValid(t *testing.T) {
	names, err := filepath.Glob("*/*.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(names) < 9 {
		t.Fatalf("only %d manifests: %v", len(names), names)
	}
	for _, name := range names {
		switch filepath.Base(name) {
		case "kustomization.yaml", "apiservice.yaml": // Of no type that client-go knows; see below.
		default:
			objects(t, name)
		}
	}
}

func TestKustomizationsListTheFilesThereAre(t *testing.T) {
	for _, dir := range []string{"base", "overlays/cert-manager"} {
		var k kustomization
		decodeStrictly(t, dir, documents(t, filepath.Join(dir, "kustomization.yaml"))[0], &k)
		if k.APIVersion != "kustomize.config.k8s.io/v1beta1" || k.Kind != "Kustomization" {
			t.Errorf("%s: kustomization is a %s %s", dir, k.APIVersion, k.Kind)
		}
		listed := []string{"kustomization.yaml"}
		for _, r := range k.Resources {
			if filepath.Ext(r) == "" {
				if _, err := os.Stat(filepath.Join(dir, r, "kustomization.yaml")); err != nil {
					t.Errorf("%s: resource %s: %v", dir, r, err)
				}
				continue
			}
			listed = append(listed, r)
		}
		for _, p := range k.Patches {
			listed = append(listed, p.Path)
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var there []string
		for _, e := range entries {
			there = append(there, e.Name())
		}
		slices.Sort(listed)
		if diff := cmp.Diff(there, listed); diff != "" {
			t.Errorf("%s: listed files differ (-there +listed):\n%s", dir, diff)
		}
	}
}

func TestPodMeetsTheRestrictedStandard(t *testing.T) {
	pod := only[*appsv1.Deployment](t, "base/deployment.yaml").Spec.Template.Spec
	if len(pod.Containers) != 1 {
		t.Fatalf("%d containers; want 1", len(pod.Containers))
	}
	c := pod.Containers[0]
	isTrue := func(b *bool) bool { return b != nil && *b }
	for what, ok := range map[string]bool{
		"runs as non-root":             isTrue(pod.SecurityContext.RunAsNonRoot) && *pod.SecurityContext.RunAsUser == 65532,
		"has the runtime's seccomp":    pod.SecurityContext.SeccompProfile.Type == corev1.SeccompProfileTypeRuntimeDefault,
		"cannot write its image":       isTrue(c.SecurityContext.ReadOnlyRootFilesystem),
		"cannot gain privileges":       c.SecurityContext.AllowPrivilegeEscalation != nil && !*c.SecurityContext.AllowPrivilegeEscalation,
		"has no capability":            cmp.Equal(c.SecurityContext.Capabilities, &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}),
		"asks for CPU and memory":      !c.Resources.Requests.Cpu().IsZero() && !c.Resources.Requests.Memory().IsZero(),
		"is bounded in memory":         c.Resources.Limits.Memory().Cmp(*c.Resources.Requests.Memory()) >= 0,
		"is alive on the plain port":   c.LivenessProbe.HTTPGet.Path == "/-/healthy" && c.LivenessProbe.HTTPGet.Port.String() == "http",
		"is ready on the plain port":   c.ReadinessProbe.HTTPGet.Path == "/-/ready" && c.ReadinessProbe.HTTPGet.Port.String() == "http",
		"says so to its namespace too": only[*corev1.Namespace](t, "base/namespace.yaml").Labels["pod-security.kubernetes.io/enforce"] == "restricted",
	} {
		if !ok {
			t.Errorf("not true: the pod %s", what)
		}
	}
}

func TestPartsFitTogether(t *testing.T) {
	d := only[*appsv1.Deployment](t, "base/deployment.yaml")
	c := d.Spec.Template.Spec.Containers[0]
	account := only[*corev1.ServiceAccount](t, "base/serviceaccount.yaml")
	config := only[*corev1.ConfigMap](t, "base/configmap.yaml")
	if d.Spec.Template.Spec.ServiceAccountName != account.Name || d.Namespace != account.Namespace || d.Namespace != config.Namespace {
		t.Errorf("the Deployment %s/%s and its account %s/%s do not fit", d.Namespace, d.Name, account.Namespace, account.Name)
	}
	wantArgs := []string{
		"serve", "--config.file=/etc/kubeforecaster/config.yaml", "--listen=:8080", "--secure-port=6443",
		"--tls-cert-file=/tls/tls.crt", "--tls-private-key-file=/tls/tls.key",
	}
	if diff := cmp.Diff(wantArgs, c.Args); diff != "" {
		t.Errorf("arguments differ (-want +got):\n%s", diff)
	}
	mounted := map[string]string{}
	for i, v := range d.Spec.Template.Spec.Volumes {
		name := c.VolumeMounts[i].MountPath
		switch {
		case v.Name != c.VolumeMounts[i].Name:
			t.Errorf("volume %s is not mounted", v.Name)
		case v.ConfigMap != nil:
			mounted[name] = v.ConfigMap.Name
		case v.Secret != nil:
			mounted[name] = v.Secret.SecretName
		}
	}
	if diff := cmp.Diff(map[string]string{"/etc/kubeforecaster": config.Name, "/tls": "kubeforecaster-tls"}, mounted); diff != "" {
		t.Errorf("mounts differ (-want +got):\n%s", diff)
	}
	ports := map[string]int32{}
	for _, p := range c.Ports {
		ports[p.Name] = p.ContainerPort
	}
	if diff := cmp.Diff(map[string]int32{"http": 8080, "https": 6443}, ports); diff != "" {
		t.Errorf("ports differ (-want +got):\n%s", diff)
	}
	for _, o := range objects(t, "base/service.yaml") {
		s := o.(*corev1.Service)
		if diff := cmp.Diff(d.Spec.Template.Labels, s.Spec.Selector); diff != "" {
			t.Errorf("Service %s selects other pods:\n%s", s.Name, diff)
		}
		if target := s.Spec.Ports[0].TargetPort.String(); ports[target] == 0 {
			t.Errorf("Service %s leads to the port %q, which the pod does not have", s.Name, target)
		}
	}
}

func TestAPIServiceIsVerified(t *testing.T) {
	var got apiService
	raw := documents(t, "base/apiservice.yaml")
	decodeStrictly(t, "base/apiservice.yaml", raw[0], &got) // Which also refuses insecureSkipTLSVerify.
	if len(raw) != 1 || got.APIVersion != "apiregistration.k8s.io/v1" || got.Kind != "APIService" {
		t.Errorf("%d documents, a %s %s; want one APIService", len(raw), got.APIVersion, got.Kind)
	}
	if got.Metadata.Name != "v1beta1.external.metrics.k8s.io" || got.Metadata.Name != got.Spec.Version+"."+got.Spec.Group {
		t.Errorf("%s serves %s/%s", got.Metadata.Name, got.Spec.Group, got.Spec.Version)
	}
	service := objects(t, "base/service.yaml")[0].(*corev1.Service)
	if s := got.Spec.Service; s.Name != service.Name || s.Namespace != service.Namespace || s.Port != service.Spec.Ports[0].Port {
		t.Errorf("the APIService leads to %+v; want %s/%s", s, service.Namespace, service.Name)
	}
	if service.Spec.Ports[0].TargetPort.String() != "https" {
		t.Errorf("the Service leads to the port %s", service.Spec.Ports[0].TargetPort.String())
	}

	var patch apiService
	decodeStrictly(t, "overlays/cert-manager/apiservice.yaml", documents(t, "overlays/cert-manager/apiservice.yaml")[0], &patch)
	if patch.Metadata.Name != got.Metadata.Name || patch.Metadata.Annotations["cert-manager.io/inject-ca-from"] != "kubeforecaster/kubeforecaster-tls" {
		t.Errorf("the overlay patches %+v", patch.Metadata)
	}
}

// certificate is what the overlay uses of cert-manager's Issuer and Certificate.
type certificate struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   metadata `json:"metadata"`
	Spec       struct {
		SelfSigned *struct{} `json:"selfSigned"`
		CA         *struct {
			SecretName string `json:"secretName"`
		} `json:"ca"`
		SecretName  string   `json:"secretName"`
		CommonName  string   `json:"commonName"`
		IsCA        bool     `json:"isCA"`
		DNSNames    []string `json:"dnsNames"`
		Duration    string   `json:"duration"`
		RenewBefore string   `json:"renewBefore"`
		Usages      []string `json:"usages"`
		PrivateKey  struct {
			Algorithm      string `json:"algorithm"`
			Size           int    `json:"size"`
			RotationPolicy string `json:"rotationPolicy"`
		} `json:"privateKey"`
		IssuerRef struct {
			Name string `json:"name"`
			Kind string `json:"kind"`
		} `json:"issuerRef"`
	} `json:"spec"`
}

func TestCertificateNamesTheService(t *testing.T) {
	issuers := map[string]bool{}
	var served certificate
	for _, data := range documents(t, "overlays/cert-manager/certificate.yaml") {
		var c certificate
		decodeStrictly(t, "overlays/cert-manager/certificate.yaml", data, &c)
		switch {
		case c.Kind == "Issuer":
			issuers[c.Metadata.Name] = true
		case !issuers[c.Spec.IssuerRef.Name]:
			t.Errorf("certificate %s is issued by %q, which is not there", c.Metadata.Name, c.Spec.IssuerRef.Name)
		}
		if c.Spec.SecretName == "kubeforecaster-tls" {
			served = c
		}
	}
	want := []string{"kubeforecaster.kubeforecaster.svc", "kubeforecaster.kubeforecaster.svc.cluster.local"}
	if diff := cmp.Diff(want, served.Spec.DNSNames); diff != "" {
		t.Errorf("names differ (-want +got):\n%s", diff)
	}
}

func TestPermissionsAreThoseThatAreNeeded(t *testing.T) {
	got := map[string]string{}
	for _, o := range objects(t, "base/rbac.yaml") {
		switch o := o.(type) {
		case *rbacv1.ClusterRoleBinding:
			got[o.RoleRef.Kind+" "+o.RoleRef.Name] = o.Subjects[0].Namespace + "/" + o.Subjects[0].Name
		case *rbacv1.RoleBinding:
			got[o.Namespace+" "+o.RoleRef.Kind+" "+o.RoleRef.Name] = o.Subjects[0].Namespace + "/" + o.Subjects[0].Name
		case *rbacv1.ClusterRole:
			want := []rbacv1.PolicyRule{{APIGroups: []string{"external.metrics.k8s.io"}, Resources: []string{"*"}, Verbs: []string{"get", "list"}}}
			if diff := cmp.Diff(want, o.Rules); diff != "" {
				t.Errorf("rules of %s differ (-want +got):\n%s", o.Name, diff)
			}
		default:
			t.Errorf("unexpected %T", o)
		}
	}
	want := map[string]string{
		"ClusterRole system:auth-delegator":                          "kubeforecaster/kubeforecaster",
		"kube-system Role extension-apiserver-authentication-reader": "kubeforecaster/kubeforecaster",
		"ClusterRole kubeforecaster-external-metrics-reader":         "kube-system/horizontal-pod-autoscaler",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("bindings differ (-want +got):\n%s", diff)
	}
}

func TestConfigHasTheDocumentedKeys(t *testing.T) {
	var got struct {
		Prometheus struct {
			URL           string `json:"url"`
			Timeout       string `json:"timeout"`
			MaxConcurrent int    `json:"max_concurrent"`
		} `json:"prometheus"`
		Model struct {
			DropoutRate float64 `json:"dropout_rate"`
		} `json:"model"`
		Sync struct {
			IntervalHours float64 `json:"interval_hours"`
		} `json:"sync"`
		DefaultRules bool  `json:"default_rules"`
		Rules        []any `json:"rules"`
	}
	text := only[*corev1.ConfigMap](t, "base/configmap.yaml").Data["config.yaml"]
	decodeStrictly(t, "config.yaml", []byte(text), &got)
	if !strings.HasPrefix(got.Prometheus.URL, "http") || got.Model.DropoutRate != 0.3 || got.Sync.IntervalHours != 6 || !got.DefaultRules {
		t.Errorf("config.yaml is %+v", got)
	}
}

func TestHPAPairsOneForecastWithWhatIsObserved(t *testing.T) {
	hpa := only[*autoscalingv2.HorizontalPodAutoscaler](t, "examples/hpa.yaml")
	if len(hpa.Spec.Metrics) != 2 {
		t.Fatalf("%d metrics; want 2", len(hpa.Spec.Metrics))
	}
	forecast, observed := hpa.Spec.Metrics[0].External, hpa.Spec.Metrics[1].Resource
	if forecast == nil || observed == nil || observed.Name != corev1.ResourceCPU {
		t.Fatalf("metrics are %+v", hpa.Spec.Metrics)
	}
	want := map[string]string{"workload": hpa.Spec.ScaleTargetRef.Name, "workload_kind": hpa.Spec.ScaleTargetRef.Kind}
	if diff := cmp.Diff(want, forecast.Metric.Selector.MatchLabels); diff != "" || forecast.Metric.Name != "predicted_cpu_cores" {
		t.Errorf("%s selects other than the scaled workload (-want +got):\n%s", forecast.Metric.Name, diff)
	}
	for _, target := range []autoscalingv2.MetricTarget{forecast.Target, observed.Target} {
		if target.Type != autoscalingv2.AverageValueMetricType || target.AverageValue.String() != "700m" || target.Value != nil {
			t.Errorf("target is %+v; want the same AverageValue for both", target)
		}
	}
}
