package forecaster

import (
	"fmt"
	"time"
)

// DefaultRules returns the rules that are in force without any configuration,
// defaults filled in. They read what every kubelet and kube-state-metrics
// expose, and give
//
//   - predicted_cpu_cores and predicted_memory_bytes for each workload, with the
//     labels namespace, workload and workload_kind (Deployment, StatefulSet,
//     DaemonSet, CronJob, Job, Pod, or the kind of any other controller);
//   - predicted_container_cpu_cores and predicted_container_memory_bytes for
//     each container, with the labels namespace, pod and container.
//
// CPU and memory of the same thing have equal labels and are each other's
// second input. A workload is the sum of its pods at each instant, so its
// history outlives them. Without kube-state-metrics the names of pods tell
// their workloads.
func DefaultRules() []Rule {
	const (
		cpu, memory                       = "predicted_cpu_cores", "predicted_memory_bytes"
		cpuOfContainer, memoryOfContainer = "predicted_container_cpu_cores", "predicted_container_memory_bytes"
		// Few pods live long; looking back further would mostly load the
		// history of pods that are gone.
		containerLookback = 3 * time.Hour
	)
	rules := []Rule{
		{Metric: cpu, With: memory, Expr: byWorkload(containerCPU, cpuSeconds) + known},
		{Metric: memory, With: cpu, Expr: byWorkload(containerMemory, memoryBytes)},
		{Metric: cpuOfContainer, With: memoryOfContainer, Expr: containerCPU + known, Lookback: containerLookback},
		{Metric: memoryOfContainer, With: cpuOfContainer, Expr: containerMemory, Lookback: containerLookback},
	}
	for i, r := range rules {
		rules[i] = r.WithDefaults()
	}
	return rules
}

// What cAdvisor measures, one row for each run of a container. The filter
// leaves out the rows that would count the same usage twice: those of pods,
// slices and nodes, which have no container, and those of the container that
// only holds a pod's network, which has none either or is called POD.
const (
	realContainers = `{container!="", container!="POD", pod!=""}`
	cpuSeconds     = "container_cpu_usage_seconds_total" + realContainers
	memoryBytes    = "container_memory_working_set_bytes" + realContainers
)

// containerCPU is the CPU of each container in cores; NaN where it cannot be
// told yet, so that no sum takes the container for idle.
//
// A rate over 3 minutes is what was burnt in them, and stays so for a pod that
// is gone: while pods are replaced, the rates of the old fall as those of the
// new rise, and their sum holds. For the same reason a rate falls where scrapes
// are missing at either end, though no load fell. So it counts only where the
// node answered as often in the first minute as in the last. Elsewhere (a node
// that does not answer, one that has come back, one that is new) the slope
// between the last two samples stands in.
//
// A node that has come back with one sample so far has no slope either: NaN.
//
// A node that is scraped by two jobs, or by two Prometheus servers behind one
// query front end, counts once: max drops the copies, and NaN only if there is
// no number. The runs of a restarted container have an id each and are added
// up, as pods are.
const containerCPU = `sum by (namespace, pod, container) (
  max by (namespace, pod, container, id, cpu) (
      rate(` + cpuSeconds + `[3m])
        and on (instance)
          max by (instance) (count_over_time(` + cpuSeconds + `[1m] offset 2m))
            == max by (instance) (count_over_time(` + cpuSeconds + `[1m]))
    or
      irate(` + cpuSeconds + `[3m])
    or
      NaN * ` + cpuSeconds + `
        and on (instance) max by (instance) (count_over_time(` + cpuSeconds + `[3m])) == 1
        and on (instance) group by (instance) (last_over_time(` + cpuSeconds + `[15m] offset 3m))
  )
)`

// known drops NaN: no answer is better than one that is too low.
const known = " >= 0"

// containerMemory is the memory of each container in bytes, as long as it is
// there: it must not count with its successor during a rollout. So a sample
// counts for 90 seconds, and not beyond a stale marker. Only where a node did
// not answer does one count for 3 minutes. Of copies, and of the runs of a
// restarted container, one counts: a container runs once at a time.
const containerMemory = `max by (namespace, pod, container) (
    ` + memoryBytes + `
      and time() - timestamp(` + memoryBytes + `) < 90
  or
    last_over_time(` + memoryBytes + `[3m])
      unless on (instance) group by (instance) (time() - timestamp(` + memoryBytes + `) < 90)
)`

// byWorkload sums the usage of containers over the pods of each workload.
// Sample is the metric that tells which pods there are.
//
// The owner of every pod is one series with the label workload, such as
// "Deployment/web", and the value 1: multiplying by it hands the label on.
func byWorkload(usage, sample string) string {
	const format = `sum by (namespace, workload, workload_kind) (
%s
)`
	pods := fmt.Sprintf(`sum by (namespace, pod) (
%s
)
* on (namespace, pod) group_left (workload) (
%s
)`, usage, owners(sample))
	pods = labelReplace(pods, "workload_kind", "$1", "workload", "(.+)/.+")
	pods = labelReplace(pods, "workload", "$1", "workload", ".+/(.+)")
	return fmt.Sprintf(format, pods)
}

// owners gives every pod its workload, once: a second series for a pod would
// fail the whole query ("many-to-many matching not allowed"). In falling order
// of preference a pod belongs to
//
//   - what kube-state-metrics says the owner of its owner is;
//   - its owner, or what the name of its owner says;
//   - what its own name says, in namespaces that kube-state-metrics does not
//     know;
//   - what its own name says, if that is the workload of other pods, or if it has
//     run for 2 minutes. A younger one may wait for kube-state-metrics, lest it
//     become a workload of its own for a moment; an older one would be missing
//     from the sum.
func owners(sample string) string {
	return fmt.Sprintf(`    %[1]s
    * on (namespace, owner) group_left (workload) %[2]s
  or on (namespace, pod)
    %[3]s
  or on (namespace)
    %[4]s
  or on (namespace, pod)
    %[4]s
      and on (namespace, workload) %[5]s
  or on (namespace, pod)
    %[6]s`, podOwners, ownerOwners(), byOwnerName(podOwners),
		byPodName(podsOf(sample, "[3m]")),
		byOwnerName("("+podOwners+" unless on (namespace, owner) "+ownerOwners()+")"),
		byPodName(podsOf(sample, "[15m] offset 2m")))
}

// podsOf gives the pods of which there is a sample in a range of time.
func podsOf(sample, when string) string {
	return "group by (namespace, pod) (last_over_time(" + sample + when + "))"
}

// remembered is how long what kube-state-metrics said is believed after it was
// last heard. Owners never change, and which pods there are is told by cAdvisor,
// so this may well outlast a restart of kube-state-metrics.
const remembered = "[10m]"

// podOwners is the direct owner of each pod as the label owner, such as
// "ReplicaSet/web-5d9f7c8b6". Every pod owns itself (1) unless a controller owns
// it (2). The mirror pods of a node's own containers are owned by the node,
// which is no workload. Max drops the copies of several kube-state-metrics, and
// topk leaves one owner where a name was used again for a pod of another.
const podOwners = `group by (namespace, pod, owner) (topk by (namespace, pod) (1,
      2 * max by (namespace, pod, owner) (label_join(
        last_over_time(kube_pod_owner{owner_is_controller="true", owner_kind!="Node"}` + remembered + `),
        "owner", "/", "owner_kind", "owner_name"))
      or max by (namespace, pod, owner) (label_replace(
        last_over_time(kube_pod_owner` + remembered + `),
        "owner", "Pod/$1", "pod", "(.+)"))
    ))`

// ownerOwners is the workload behind each owner that is a ReplicaSet or a Job:
// its controller, or itself if it has none (which kube-state-metrics writes as
// "" or "<none>"). The ReplicaSets of Deployments, many old ones among them, are
// left out for their number: their names tell their Deployment.
func ownerOwners() string {
	return fmt.Sprintf(`group by (namespace, owner, workload) (topk by (namespace, owner) (1,
      max by (namespace, owner, workload) (
        %s
        or %s
      )))`,
		controllerOf(`kube_replicaset_owner{owner_is_controller!="false", owner_kind!="Deployment"}`, "ReplicaSet", "replicaset"),
		controllerOf(`kube_job_owner{owner_is_controller!="false"}`, "Job", "job_name"))
}

// controllerOf turns the owner metric of a kind, which names its objects by
// label name, into the labels owner (the object) and workload (its controller).
func controllerOf(metric, kind, name string) string {
	expr := labelReplace("last_over_time("+metric+remembered+")", "owner", kind+"/$1", name, "(.+)")
	expr = labelReplace(expr, "workload", "$1", "owner", "(.+)")
	expr = fmt.Sprintf(`label_join(%s, "controller", "/", "owner_kind", "owner_name")`, expr)
	return labelReplace(expr, "workload", "$1", "controller", "([A-Z].*/.+)") // Kinds begin with a capital.
}

// How Kubernetes names what it makes.
const (
	// Random is the alphabet of generated names: no vowels, and none of the
	// digits that look like letters.
	random       = "[bcdfghjklmnpqrstvwxz2456789]"
	podSuffix    = "-" + random + "{5}"
	templateHash = "-" + random + "{6,10}" // of a ReplicaSet made by a Deployment
	scheduled    = "-[0-9]{8}"             // of a Job made by a CronJob: minutes since 1970
	ordinal      = "-[0-9]{1,4}"           // of a pod of a StatefulSet
)

// byOwnerName adds the label workload to series with the label owner: the owner
// itself, unless its name says that it is made by a Deployment or a CronJob.
func byOwnerName(expr string) string {
	expr = labelReplace(expr, "workload", "$1", "owner", "(.+)")
	expr = labelReplace(expr, "workload", "Deployment/$1", "owner", "ReplicaSet/(.+)"+templateHash)
	return labelReplace(expr, "workload", "CronJob/$1", "owner", "Job/(.+)"+scheduled)
}

// byPodName adds the label workload to series with the label pod, from the
// shape of the pod's name. The later lines are the more specific ones. Pods of
// a Job without a CronJob look like those of a DaemonSet.
func byPodName(expr string) string {
	expr = labelReplace(expr, "workload", "Pod/$1", "pod", "(.+)")
	expr = labelReplace(expr, "workload", "StatefulSet/$1", "pod", "(.+)"+ordinal)
	expr = labelReplace(expr, "workload", "DaemonSet/$1", "pod", "(.+)"+podSuffix)
	expr = labelReplace(expr, "workload", "Deployment/$1", "pod", "(.+)"+templateHash+podSuffix)
	return labelReplace(expr, "workload", "CronJob/$1", "pod", "(.+)"+scheduled+podSuffix)
}

// labelReplace writes a call of the PromQL function: label dst becomes to
// where all of label src matches pattern, and stays as it is elsewhere.
func labelReplace(expr, dst, to, src, pattern string) string {
	return fmt.Sprintf("label_replace(%s, %q, %q, %q, %q)", expr, dst, to, src, pattern)
}
