// Package prom brings history in from Prometheus, or from anything that
// answers like it: [Client.QueryRange] is a [forecaster.QueryFunc].
//
// It settles what a model must not have to care for: authentication, time-outs
// and retries, the server's limit of points per query, samples off the grid,
// and values that are no numbers. What is missing stays missing: nothing here
// ever becomes a zero.
package prom
