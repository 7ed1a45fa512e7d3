// Package adapter serves what a [forecaster.Store] holds: as external metrics
// to Kubernetes ([Provider] behind [APIServer]), as series to Prometheus
// ([Collector]) and as a REST API ([NewHandler]).
//
// Every door gives the same number for the same view of a forecast, the one
// that forecaster.Rule.Value gives, and none of them waits for Prometheus or,
// save POST /predict, for a model.
package adapter
