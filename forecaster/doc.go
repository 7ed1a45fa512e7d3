// Package forecaster is the core of kubeforecaster: rules, series, windows,
// models, forecasts, and the manager that keeps the newest forecast of every
// series in a store.
//
// It knows neither Prometheus' HTTP API nor Kubernetes nor gorgonia. History
// comes in through a [QueryFunc], forecasts are made by a [Model], and whoever
// serves them reads a [Store].
package forecaster
