package main_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
	"github.com/kubeforecaster/kubeforecaster/internal/clustersim"
	"github.com/kubeforecaster/kubeforecaster/prom/embedded"
)

// now is when the rules are asked, a little after a full minute: scrapes keep
// no round times.
var now = time.Now().Truncate(time.Minute).Add(13 * time.Second)

const scrapeInterval = 30 * time.Second

// cluster is what Prometheus has scraped of one namespace. Times are minutes
// before now; a scrape happens every 30 s, the last one 20 s ago.
type cluster struct {
	namespace string
	node      string // label instance of the kubelet
	series    []embedded.Series
}

// scrapes returns the times of the scrapes from until before now.
func scrapes(from, until float64) []int64 {
	var out []int64
	for t := now.Add(-20 * time.Second); ; t = t.Add(-scrapeInterval) {
		switch ago := now.Sub(t).Minutes(); {
		case ago > from:
			slices.Reverse(out)
			return out
		case ago >= until:
			out = append(out, t.UnixMilli())
		}
	}
}

// add notes a series that was scraped from until before now. If it ended in
// the past, a stale marker follows.
func (c *cluster) add(labels string, from, until float64, value func(age time.Duration) float64) {
	s := embedded.Series{Labels: map[string]string{"namespace": c.namespace}, Times: scrapes(from, until)}
	for pair := range strings.FieldsSeq("__name__=" + labels) {
		name, v, _ := strings.Cut(pair, "=")
		s.Labels[name] = v
	}
	for _, t := range s.Times {
		s.Values = append(s.Values, value(time.UnixMilli(t).Sub(now.Add(-time.Duration(from*float64(time.Minute))))))
	}
	if until > 0 {
		s.Times = append(s.Times, s.Times[len(s.Times)-1]+scrapeInterval.Milliseconds())
		s.Values = append(s.Values, embedded.StaleMarker())
	}
	c.series = append(c.series, s)
}

// span is how long something ran, in minutes before now.
type span struct{ from, until float64 }

var always = span{from: 20}

// run notes one run of a container with a steady usage.
func (c *cluster) run(pod, container string, cores, bytes float64, s span) {
	labels := fmt.Sprintf(" instance=%s job=kubelet pod=%s container=%s id=/%s/%s/%v", c.node, pod, container, pod, container, s.from)
	c.add("container_cpu_usage_seconds_total cpu=total"+labels, s.from, s.until, func(age time.Duration) float64 { return 100 + cores*age.Seconds() })
	c.add("container_memory_working_set_bytes"+labels, s.from, s.until, constant(bytes))
}

// state notes a metric of kube-state-metrics.
func (c *cluster) state(labels string) { c.add(labels+" instance=ksm", always.from, 0, constant(1)) }

func (c *cluster) owned(pod, kind, name string) {
	c.state(fmt.Sprintf("kube_pod_owner pod=%s owner_kind=%s owner_name=%s owner_is_controller=true", pod, kind, name))
}

func constant(v float64) func(time.Duration) float64 { return func(time.Duration) float64 { return v } }

// loseScrapes takes away the newest n scrapes of the node. Marked says whether
// Prometheus noticed, that is wrote a stale marker.
func (c *cluster) loseScrapes(n int, marked bool) {
	for i, s := range c.series {
		if s.Labels["instance"] != c.node {
			continue
		}
		keep := len(s.Times) - n
		c.series[i].Times, c.series[i].Values = s.Times[:keep], s.Values[:keep]
		if marked {
			c.series[i].Times = append(slices.Clone(s.Times[:keep]), s.Times[keep])
			c.series[i].Values = append(slices.Clone(s.Values[:keep]), embedded.StaleMarker())
		}
	}
}

// leaveGap takes away the scrapes of a node in the 5 minutes before it came back.
// Prometheus was away itself, so no stale marker tells of them.
func (c *cluster) leaveGap(node string, back float64) {
	until := now.Add(-time.Duration(back * float64(time.Minute)))
	from := until.Add(-5 * time.Minute)
	for i, s := range c.series {
		if s.Labels["instance"] != node {
			continue
		}
		var kept embedded.Series
		for j, at := range s.Times {
			if at < from.UnixMilli() || at >= until.UnixMilli() {
				kept.Times, kept.Values = append(kept.Times, at), append(kept.Values, s.Values[j])
			}
		}
		c.series[i].Times, c.series[i].Values = kept.Times, kept.Values
	}
}

// usage is what the rules say of a workload or a container.
type usage struct{ CPU, Memory float64 }

func TestDefaultRulesKnowEveryWorkload(t *testing.T) {
	tests := []struct {
		name string
		feed func(c *cluster)
		want map[string]usage
	}{
		{"a Deployment is the sum of the containers of its pods", func(c *cluster) {
			c.run("web-5d9f7c8b6b-x2x4z", "app", 1, 100, always)
			c.run("web-5d9f7c8b6b-x2x4z", "proxy", 0.25, 10, always)
			c.run("web-5d9f7c8b6b-b7k9q", "app", 2, 200, always)
			c.owned("web-5d9f7c8b6b-x2x4z", "ReplicaSet", "web-5d9f7c8b6b")
			c.owned("web-5d9f7c8b6b-b7k9q", "ReplicaSet", "web-5d9f7c8b6b")
			c.state("kube_replicaset_owner replicaset=web-5d9f7c8b6b owner_kind=Deployment owner_name=web owner_is_controller=true")
		}, map[string]usage{"Deployment/web": {3.25, 310}}},
		{"the controller of a ReplicaSet may be of any kind", func(c *cluster) {
			c.run("web-5d9f7c8b6b-x2x4z", "app", 1, 100, always)
			c.owned("web-5d9f7c8b6b-x2x4z", "ReplicaSet", "web-5d9f7c8b6b")
			c.state("kube_replicaset_owner replicaset=web-5d9f7c8b6b owner_kind=Rollout owner_name=shop-web owner_is_controller=true")
		}, map[string]usage{"Rollout/shop-web": {1, 100}}},
		{"a ReplicaSet without a controller stands for itself", func(c *cluster) {
			c.run("web-5d9f7c8b6b-x2x4z", "app", 1, 100, always)
			c.run("api-x2x4z", "app", 2, 200, always)
			c.owned("web-5d9f7c8b6b-x2x4z", "ReplicaSet", "web-5d9f7c8b6b")
			c.owned("api-x2x4z", "ReplicaSet", "api")
			c.state("kube_replicaset_owner replicaset=web-5d9f7c8b6b owner_kind=<none> owner_name=<none> owner_is_controller=<none>")
			c.state("kube_replicaset_owner replicaset=api")
		}, map[string]usage{"ReplicaSet/web-5d9f7c8b6b": {1, 100}, "ReplicaSet/api": {2, 200}}},
		{"StatefulSet, DaemonSet and other controllers own their pods", func(c *cluster) {
			c.run("db-0", "app", 1, 100, always)
			c.run("db-1", "app", 2, 200, always)
			c.run("agent-x2x4z", "app", 0.5, 50, always)
			c.run("kafka-broker-3", "app", 4, 400, always)
			c.owned("db-0", "StatefulSet", "db")
			c.owned("db-1", "StatefulSet", "db")
			c.owned("agent-x2x4z", "DaemonSet", "agent")
			c.owned("kafka-broker-3", "StrimziPodSet", "kafka-broker")
		}, map[string]usage{"StatefulSet/db": {3, 300}, "DaemonSet/agent": {0.5, 50}, "StrimziPodSet/kafka-broker": {4, 400}}},
		{"Jobs of a CronJob are one workload, whatever their names", func(c *cluster) {
			c.run("report-29876543-x2x4z", "app", 1, 100, always)
			c.run("report-by-hand-x2x4z", "app", 2, 200, always)
			c.owned("report-29876543-x2x4z", "Job", "report-29876543")
			c.owned("report-by-hand-x2x4z", "Job", "report-by-hand")
			c.state("kube_job_owner job_name=report-by-hand owner_kind=CronJob owner_name=report owner_is_controller=true")
		}, map[string]usage{"CronJob/report": {3, 300}}},
		{"a Job without a CronJob stands for itself", func(c *cluster) {
			c.run("import-20260101-x2x4z", "app", 1, 100, always)
			c.owned("import-20260101-x2x4z", "Job", "import-20260101")
			c.state("kube_job_owner job_name=import-20260101")
		}, map[string]usage{"Job/import-20260101": {1, 100}}},
		{"a pod without a controller stands for itself", func(c *cluster) {
			c.run("shell", "app", 1, 100, always)
			c.run("old", "app", 2, 200, always)
			c.run("kept", "app", 3, 300, always)
			c.run("etcd-n1", "app", 4, 400, always)
			c.state("kube_pod_owner pod=shell")
			c.state("kube_pod_owner pod=old owner_kind=<none> owner_name=<none> owner_is_controller=<none>")
			c.state("kube_pod_owner pod=kept owner_kind=Backup owner_name=b owner_is_controller=false")
			c.owned("etcd-n1", "Node", "n1")
		}, map[string]usage{"Pod/shell": {1, 100}, "Pod/old": {2, 200}, "Pod/kept": {3, 300}, "Pod/etcd-n1": {4, 400}}},
		{"a controller comes before other owners", func(c *cluster) {
			c.run("db-0", "app", 1, 100, always)
			c.owned("db-0", "StatefulSet", "db")
			c.state("kube_pod_owner pod=db-0 owner_kind=Backup owner_name=b owner_is_controller=false")
		}, map[string]usage{"StatefulSet/db": {1, 100}}},
		{"several kube-state-metrics count once", func(c *cluster) {
			c.run("web-5d9f7c8b6b-x2x4z", "app", 1, 100, always)
			c.run("report-by-hand-x2x4z", "app", 2, 200, always)
			for _, replica := range []string{"1", "2"} {
				l := " owner_is_controller=true job=ksm-" + replica + " uid=u" + replica
				c.state("kube_pod_owner pod=web-5d9f7c8b6b-x2x4z owner_kind=ReplicaSet owner_name=web-5d9f7c8b6b" + l)
				c.state("kube_replicaset_owner replicaset=web-5d9f7c8b6b owner_kind=Rollout owner_name=web" + l)
				c.state("kube_pod_owner pod=report-by-hand-x2x4z owner_kind=Job owner_name=report-by-hand" + l)
				c.state("kube_job_owner job_name=report-by-hand owner_kind=CronJob owner_name=report" + l)
			}
		}, map[string]usage{"Rollout/web": {1, 100}, "CronJob/report": {2, 200}}},
		{"a name that is used again has one owner", func(c *cluster) {
			c.run("db-0", "app", 1, 100, always)
			c.owned("db-0", "StatefulSet", "db")
			c.add("kube_pod_owner pod=db-0 instance=ksm", 20, 5, constant(1))
			c.state("kube_replicaset_owner replicaset=r owner_kind=Rollout owner_name=a owner_is_controller=true")
			c.state("kube_replicaset_owner replicaset=r owner_kind=Rollout owner_name=b owner_is_controller=true")
		}, map[string]usage{"StatefulSet/db": {1, 100}}},
		{"without kube-state-metrics names tell workloads", func(c *cluster) {
			c.run("web-5d9f7c8b6b-x2x4z", "app", 1, 100, always)
			c.run("web-6db489d4b-b7k9q", "app", 2, 200, always)
			c.run("db-0", "app", 3, 300, always)
			c.run("node-agent-x2x4z", "app", 4, 400, always)
			c.run("report-29876543-x2x4z", "app", 5, 500, always)
			c.run("shell", "app", 6, 600, always)
			c.run("my-tool", "app", 7, 700, always)
		}, map[string]usage{
			"Deployment/web": {3, 300}, "StatefulSet/db": {3, 300}, "DaemonSet/node-agent": {4, 400},
			"CronJob/report": {5, 500}, "Pod/shell": {6, 600}, "Pod/my-tool": {7, 700},
		}},
		{"a pod that kube-state-metrics does not know yet is no workload of its own", func(c *cluster) {
			c.run("web-5d9f7c8b6b-x2x4z", "app", 1, 100, always)
			c.run("web-5d9f7c8b6b-b7k9q", "app", 1, 100, span{from: 1})
			c.owned("web-5d9f7c8b6b-x2x4z", "ReplicaSet", "web-5d9f7c8b6b")
			c.state("kube_replicaset_owner replicaset=web-5d9f7c8b6b owner_kind=Rollout owner_name=web owner_is_controller=true")
		}, map[string]usage{"Rollout/web": {1, 100}}},
		{"kube-state-metrics may be away for some minutes", func(c *cluster) {
			c.run("web-5d9f7c8b6b-x2x4z", "app", 1, 100, always)
			l := " instance=ksm owner_is_controller=true"
			c.add("kube_pod_owner pod=web-5d9f7c8b6b-x2x4z owner_kind=ReplicaSet owner_name=web-5d9f7c8b6b"+l, 20, 8, constant(1))
			c.add("kube_replicaset_owner replicaset=web-5d9f7c8b6b owner_kind=Rollout owner_name=web"+l, 20, 8, constant(1))
		}, map[string]usage{"Rollout/web": {1, 100}}},
		{"a pod that one kube-state-metrics of several does not know counts by its name", func(c *cluster) {
			c.run("web-5d9f7c8b6b-x2x4z", "app", 1, 100, always)
			c.run("web-5d9f7c8b6b-b7k9q", "app", 2, 200, always)
			c.run("agent-b7k9q", "app", 4, 400, always)
			c.owned("web-5d9f7c8b6b-x2x4z", "ReplicaSet", "web-5d9f7c8b6b")
			l := " instance=ksm-2 owner_is_controller=true"
			c.add("kube_pod_owner pod=web-5d9f7c8b6b-b7k9q owner_kind=ReplicaSet owner_name=web-5d9f7c8b6b"+l, 20, 12, constant(1))
			c.add("kube_pod_owner pod=agent-b7k9q owner_kind=DaemonSet owner_name=agent"+l, 20, 12, constant(1))
		}, map[string]usage{"Deployment/web": {3, 300}, "DaemonSet/agent": {4, 400}}},
		{"a rollout may happen while kube-state-metrics is away", func(c *cluster) {
			c.run("web-5d9f7c8b6b-x2x4z", "app", 1, 100, span{from: 20, until: 5.5})
			c.run("web-6db489d4b-b7k9q", "app", 2, 200, span{from: 5.5})
			l := " instance=ksm owner_is_controller=true"
			c.add("kube_pod_owner pod=web-5d9f7c8b6b-x2x4z owner_kind=ReplicaSet owner_name=web-5d9f7c8b6b"+l, 20, 8, constant(1))
		}, map[string]usage{"Deployment/web": {2, 200}}},
		{"a rollout that kube-state-metrics misses is no drop, from its first minute", func(c *cluster) {
			// Two samples tell of 30 s, and rate adds 15 s before them and the 20 s
			// since: 65 of 180 s at 2 cores.
			c.run("web-5d9f7c8b6b-x2x4z", "app", 1, 100, always)
			c.run("web-6db489d4b-b7k9q", "app", 2, 200, span{from: 1})
			l := " instance=ksm owner_is_controller=true"
			c.add("kube_pod_owner pod=web-5d9f7c8b6b-x2x4z owner_kind=ReplicaSet owner_name=web-5d9f7c8b6b"+l, 20, 8, constant(1))
		}, map[string]usage{"Deployment/web": {1.722, 300}}},
		{"a pod with an unknown name that kube-state-metrics misses counts after 2 minutes", func(c *cluster) {
			c.run("db-0", "app", 1, 100, always)
			c.run("new-0", "app", 1, 100, span{from: 2})
			c.run("older-0", "app", 1, 100, span{from: 4})
			c.owned("db-0", "StatefulSet", "db")
		}, map[string]usage{"StatefulSet/db": {1, 100}, "StatefulSet/older": {1, 100}}},
		{"rows of pods, pauses, slices and nodes are not counted", func(c *cluster) {
			c.run("db-0", "app", 1, 100, always)
			c.run("db-0", "POD", 0.5, 50, always)
			c.run("db-0", "", 1.5, 150, always)
			c.run("", "", 64, 6400, always)
			c.run("", "kubelet", 64, 6400, always)
			c.owned("db-0", "StatefulSet", "db")
		}, map[string]usage{"StatefulSet/db": {1, 100}}},
		{"a lost scrape is no drop in load", func(c *cluster) {
			c.run("db-0", "app", 1, 100, always)
			c.loseScrapes(1, true)
			c.node = "other"
			c.run("db-1", "app", 2, 200, always)
		}, map[string]usage{"StatefulSet/db": {3, 300}}},
		{"nor are three", func(c *cluster) {
			c.run("db-0", "app", 1, 100, always)
			c.loseScrapes(3, true)
			c.node = "other"
			c.run("db-1", "app", 2, 200, always)
		}, map[string]usage{"StatefulSet/db": {3, 300}}},
		{"nor are those that Prometheus did not notice", func(c *cluster) {
			c.run("db-0", "app", 1, 100, always)
			c.loseScrapes(3, false)
			c.node = "other"
			c.run("db-1", "app", 2, 200, always)
		}, map[string]usage{"StatefulSet/db": {3, 300}}},
		{"a node that is away for long is absent, not zero", func(c *cluster) {
			c.run("db-0", "app", 1, 100, always)
			c.loseScrapes(7, true)
		}, nil},
		{"a pod that is gone is absent, not zero", func(c *cluster) {
			c.run("db-0", "app", 1, 100, always)
			c.run("db-1", "app", 2, 200, span{from: 20, until: 3.5})
			c.run("gone", "app", 2, 200, span{from: 20, until: 3.5})
		}, map[string]usage{"StatefulSet/db": {1, 100}}},
		{"a node that is scraped twice counts once", func(c *cluster) {
			c.run("db-0", "app", 1, 100, always)
			c.node = "other"
			c.run("db-0", "app", 1, 100, always)
		}, map[string]usage{"StatefulSet/db": {1, 100}}},
	}
	var series []embedded.Series
	namespace := func(i int) string { return fmt.Sprintf("case-%02d", i) }
	for i, tt := range tests {
		c := &cluster{namespace: namespace(i), node: namespace(i)}
		tt.feed(c)
		series = append(series, c.series...)
	}
	got := ask(t, series, "predicted_cpu_cores", "predicted_memory_bytes", now, func(l map[string]string) string {
		if len(l) != 3 {
			t.Errorf("labels %v; want namespace, workload and workload_kind", l)
		}
		return l["namespace"] + "/" + l["workload_kind"] + "/" + l["workload"]
	})
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { compare(t, within(got, namespace(i)), tt.want, 0.001) })
	}
	for key := range got {
		if !strings.HasPrefix(key, "case-") {
			t.Errorf("%s is no workload", key)
		}
	}
}

// A node, or Prometheus, has been away for 5 minutes. What is said of its
// workloads afterwards is the truth, or nothing at all.
func TestDefaultRulesAreNeverLowAfterAGap(t *testing.T) {
	tests := []struct {
		name   string
		back   float64            // minutes since the first node came back
		second float64            // and the second one
		want   map[string]float64 // cores by workload
	}{
		{"one sample gives no slope, so there is no answer", 0.4, 0.4, nil},
		{"a workload with a node that has none waits for it", 0.9, 0.4, map[string]float64{"first": 4}},
		{"two samples give the slope", 0.9, 0.9, map[string]float64{"first": 4, "both": 3, "second": 8}},
		{"nothing is missing after 1.4 minutes", 1.4, 0.9, map[string]float64{"first": 4, "both": 3, "second": 8}},
		{"nor after 1.9", 1.9, 1.4, map[string]float64{"first": 4, "both": 3, "second": 8}},
		{"nor after 2.4", 2.4, 1.9, map[string]float64{"first": 4, "both": 3, "second": 8}},
		{"nor after 2.9", 2.9, 2.4, map[string]float64{"first": 4, "both": 3, "second": 8}},
		{"nor after 3.4", 3.4, 2.9, map[string]float64{"first": 4, "both": 3, "second": 8}},
		{"a node that has been there all along waits for no other", 20, 0.4, map[string]float64{"first": 4}},
		{"a gap that is over for long matters no more", 10, 10, map[string]float64{"first": 4, "both": 3, "second": 8}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := &cluster{namespace: "shop", node: "n1"}
			c.run("first-0", "app", 4, 100, always)
			c.run("both-0", "app", 1, 100, always)
			c.leaveGap("n1", tt.back)
			c.node = "n2"
			c.run("both-1", "app", 2, 100, always)
			c.run("second-0", "app", 8, 100, always)
			c.leaveGap("n2", tt.second)
			p := startPrometheus(t, c.series)
			got := map[string]float64{}
			for labels, cores := range query(t, p, defaultExpr(t, "predicted_cpu_cores"), now) {
				got[(*labels)["workload"]] = cores
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateApprox(0.001, 0), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("cores differ (-want +got):\n%s", diff)
			}
			for labels, cores := range query(t, p, defaultExpr(t, "predicted_container_cpu_cores"), now) {
				truth := map[string]float64{"first-0": 4, "both-0": 1, "both-1": 2, "second-0": 8}[(*labels)["pod"]]
				if !cmp.Equal(truth, cores, cmpopts.EquateApprox(0.001, 0)) {
					t.Errorf("container of %s: %v cores; want %v or nothing", (*labels)["pod"], cores, truth)
				}
			}
		})
	}
}

// A node that joins has not come back: no workload waits for it.
func TestDefaultRulesDoNotWaitForANewNode(t *testing.T) {
	c := &cluster{namespace: "shop", node: "n1"}
	c.run("agent-x2x4z", "app", 1, 100, always)
	c.node = "n2"
	c.run("agent-b7k9q", "app", 1, 100, span{from: 0.4})
	got := ask(t, c.series, "predicted_cpu_cores", "predicted_memory_bytes", now, func(l map[string]string) string { return l["workload"] })
	compare(t, got, map[string]usage{"agent": {1, 200}}, 0.001)
}

func TestDefaultRulesSurviveARolloutAndARestart(t *testing.T) {
	c := &cluster{namespace: "shop", node: "n1"}
	c.run("web-5d9f7c8b6b-x2x4z", "app", 1, 100, span{from: 20, until: 2})
	c.run("web-6db489d4b-b7k9q", "app", 1, 100, span{from: 2})
	c.run("db-0", "app", 1, 300, span{from: 20, until: 2})
	c.run("db-0", "app", 1, 100, span{from: 2})
	got := ask(t, c.series, "predicted_cpu_cores", "predicted_memory_bytes", now, func(l map[string]string) string { return l["workload"] })
	// A run's first and last seconds lie between scrapes, where nothing tells
	// what was burnt.
	compare(t, got, map[string]usage{"web": {1, 100}, "db": {1, 100}}, 0.1)
}

func TestDefaultRulesKnowEveryContainer(t *testing.T) {
	c := &cluster{namespace: "shop", node: "n1"}
	c.run("web-5d9f7c8b6b-x2x4z", "app", 1, 100, always)
	c.run("web-5d9f7c8b6b-x2x4z", "proxy", 0.25, 10, always)
	c.run("web-5d9f7c8b6b-x2x4z", "POD", 0.5, 50, always)
	c.run("web-5d9f7c8b6b-x2x4z", "", 1.5, 150, always)
	c.run("db-0", "app", 2, 200, always)
	got := ask(t, c.series, "predicted_container_cpu_cores", "predicted_container_memory_bytes", now, func(l map[string]string) string {
		if len(l) != 3 {
			t.Errorf("labels %v; want namespace, pod and container", l)
		}
		return l["namespace"] + " " + l["pod"] + " " + l["container"]
	})
	compare(t, got, map[string]usage{
		"shop web-5d9f7c8b6b-x2x4z app":   {1, 100},
		"shop web-5d9f7c8b6b-x2x4z proxy": {0.25, 10},
		"shop db-0 app":                   {2, 200},
	}, 0.001)
}

// The simulated cluster tells what its workloads really use, minute by minute
// and across a rollout of the frontend five hours before the end.
func TestDefaultRulesFollowTheSimulatedCluster(t *testing.T) {
	const window = 3 * time.Minute // of the CPU rule
	end := time.Date(2026, 11, 24, 15, 20, 7, 0, time.UTC)
	options := clustersim.Options{Seed: 1, Now: end, History: 6 * time.Hour}
	p := startPrometheus(t, simulated(t, options))
	truth, err := clustersim.New(options)
	if err != nil {
		t.Fatal(err)
	}
	rollout := end.Add(-5 * time.Hour)
	for _, at := range []time.Time{
		rollout, rollout.Add(30 * time.Second), rollout.Add(time.Minute), rollout.Add(2 * time.Minute), rollout.Add(5 * time.Minute),
		end.Add(-15 * time.Minute), // The CronJob has run for five minutes.
		end,
	} {
		want := meanUsage(t, truth, at, window)
		got := answer(t, p, "predicted_cpu_cores", "predicted_memory_bytes", at, func(l map[string]string) string {
			return l["namespace"] + "/" + l["workload_kind"] + "/" + l["workload"]
		})
		// What a pod burns before its first scrape is not seen, and a working
		// set moves between two scrapes.
		compare(t, got, want, 0.1)
	}
}

// simulated returns the history of a simulated cluster, scraped every 30 s.
func simulated(t *testing.T, o clustersim.Options) []embedded.Series {
	t.Helper()
	sim, err := clustersim.New(o)
	if err != nil {
		t.Fatal(err)
	}
	history, err := sim.Backfill(scrapeInterval, clustersim.Targets{})
	if err != nil {
		t.Fatal(err)
	}
	out := make([]embedded.Series, 0, len(history))
	for _, s := range history {
		out = append(out, embedded.Series(s))
	}
	return out
}

// meanUsage lets the cluster run until at and returns the CPU of its workloads
// on average over the window, and their memory at its end.
func meanUsage(t *testing.T, sim *clustersim.Sim, at time.Time, window time.Duration) map[string]usage {
	t.Helper()
	out := map[string]usage{}
	ticks := float64(window / clustersim.Tick)
	for ago := window - clustersim.Tick; ago >= 0; ago -= clustersim.Tick {
		if err := sim.Advance(at.Add(-ago)); err != nil {
			t.Fatal(err)
		}
		for _, w := range sim.Workloads() {
			if w.Pods > 0 { // The CronJob has none most of the time.
				key := w.Namespace + "/" + w.Kind + "/" + w.Name
				out[key] = usage{CPU: out[key].CPU + w.CPU/ticks, Memory: w.Memory}
			}
		}
	}
	return out
}

func within(all map[string]usage, namespace string) map[string]usage {
	out := map[string]usage{}
	for key, u := range all {
		if rest, ok := strings.CutPrefix(key, namespace+"/"); ok {
			out[rest] = u
		}
	}
	return out
}

func compare(t *testing.T, got, want map[string]usage, tolerance float64) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateApprox(tolerance, 0.001), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("usage differs (-want +got):\n%s", diff)
	}
}

// ask puts the series into a Prometheus and returns what two of the default
// rules make of them at the given time. Key names a series by its labels.
func ask(t *testing.T, series []embedded.Series, cpu, memory string, at time.Time, key func(map[string]string) string) map[string]usage {
	t.Helper()
	return answer(t, startPrometheus(t, series), cpu, memory, at, key)
}

// answer is ask, of a Prometheus that runs.
func answer(t *testing.T, p *embedded.Server, cpu, memory string, at time.Time, key func(map[string]string) string) map[string]usage {
	t.Helper()
	out := map[string]usage{}
	for labels, v := range query(t, p, defaultExpr(t, cpu), at) {
		u := out[key(*labels)]
		u.CPU = v
		out[key(*labels)] = u
	}
	for labels, v := range query(t, p, defaultExpr(t, memory), at) {
		u := out[key(*labels)]
		u.Memory = v
		out[key(*labels)] = u
	}
	return out
}

func startPrometheus(t *testing.T, series []embedded.Series) *embedded.Server {
	t.Helper()
	p, err := embedded.Start(t.Context(), embedded.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := p.Append(t.Context(), series); err != nil {
		t.Fatal(err)
	}
	return p
}

func defaultExpr(t *testing.T, metric string) string {
	t.Helper()
	for _, r := range forecaster.DefaultRules() {
		if r.Metric == metric {
			return r.Expr
		}
	}
	t.Fatalf("no default rule %s", metric)
	return ""
}

// query returns the instant vector that expr gives, by labels.
func query(t *testing.T, p *embedded.Server, expr string, at time.Time) map[*map[string]string]float64 {
	t.Helper()
	form := url.Values{"query": {expr}, "time": {strconv.FormatFloat(float64(at.UnixMilli())/1e3, 'f', 3, 64)}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.URL()+"/api/v1/query", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("query: %s %s, %v\n%s", resp.Status, body, err, expr)
	}
	var answer struct {
		Data struct {
			Result []struct {
				Metric map[string]string
				Value  [2]any
			}
		}
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatal(err)
	}
	out := map[*map[string]string]float64{}
	for _, r := range answer.Data.Result {
		v, err := strconv.ParseFloat(fmt.Sprint(r.Value[1]), 64)
		if err != nil {
			t.Fatal(err)
		}
		labels := maps.Clone(r.Metric)
		out[&labels] = v
	}
	return out
}
