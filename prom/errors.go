package prom

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"golang.org/x/oauth2"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
)

// Sentinels that callers branch on. Every error of a query also names the
// server and the expression; none holds a password, a token or a parameter of
// the URL. A query that selects nothing fails with forecaster.ErrNoData.
var (
	// ErrUnreachable says that no answer came: the connection failed, or
	// nothing came in time. It has been retried.
	ErrUnreachable = errors.New("cannot reach Prometheus")
	// ErrUnavailable says that the server answered that it cannot answer now:
	// 5xx or 429. It has been retried.
	ErrUnavailable = errors.New("server cannot answer now")
	// ErrPartial says that the server answered with a part of the data only.
	ErrPartial = errors.New("answer not whole")
	// ErrUnauthorized says that the server or the OAuth2 token endpoint refused
	// the credentials.
	ErrUnauthorized = errors.New("credentials refused")
	// ErrBadQuery says that Prometheus refused the query: it does not parse, or
	// cannot be evaluated. The message is Prometheus' own.
	ErrBadQuery = errors.New("query refused")
	// ErrBadAnswer says that an answer came that is not one of Prometheus, or
	// not the one that was asked for.
	ErrBadAnswer = errors.New("answer not understood")
	// ErrTooLarge says that the answer is larger than the client takes.
	ErrTooLarge = errors.New("answer too large")
)

// outcomes are the values of the label "outcome", in the order in which an
// error is tried on them.
var outcomes = []struct {
	err  error
	name string
}{
	{context.Canceled, "canceled"},
	{forecaster.ErrNoData, "no_data"},
	{ErrUnauthorized, "unauthorized"},
	{ErrBadQuery, "bad_query"},
	{ErrTooLarge, "too_large"},
	{ErrUnavailable, "unavailable"},
	{ErrPartial, "partial"},
	{ErrUnreachable, "unreachable"},
	{context.DeadlineExceeded, "unreachable"},
	{ErrBadAnswer, "bad_answer"},
}

const (
	outcomeSuccess = "success"
	outcomeOther   = "error"
)

func outcome(err error) string {
	if err == nil {
		return outcomeSuccess
	}
	for _, o := range outcomes {
		if errors.Is(err, o.err) {
			return o.name
		}
	}
	return outcomeOther
}

// sendError says what an error of the HTTP client means. The URL that
// net/http puts into its errors is left out: it may hold secret parameters.
func sendError(err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, ErrTooLarge) {
		return err
	}
	if re, ok := errors.AsType[*oauth2.RetrieveError](err); ok && re.Response != nil && re.Response.StatusCode/100 == 4 {
		return fmt.Errorf("%w by the OAuth2 token endpoint: %s %s", ErrUnauthorized, re.Response.Status, re.ErrorCode)
	}
	return fmt.Errorf("%w: %w", ErrUnreachable, err)
}

// answerError says what an error that client_golang made of an answer with the
// given status means. Other errors it returns as they are.
func answerError(err error, status int) error {
	e, ok := errors.AsType[*v1.Error](err)
	if !ok {
		return err
	}
	text := e.Msg
	if e.Detail != "" {
		text += ": " + shorten(e.Detail, 200)
	}
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return fmt.Errorf("%w with status %d: %s", ErrUnauthorized, status, text)
	case status == http.StatusTooManyRequests || status >= 500:
		return fmt.Errorf("%w: %s", ErrUnavailable, text)
	case refused(status) && e.Type != v1.ErrClient: // With an error of Prometheus' own.
		return fmt.Errorf("%w: %s", ErrBadQuery, text)
	case status/100 == 2:
		return fmt.Errorf("%w: %s", ErrBadAnswer, text)
	}
	return fmt.Errorf("%w: status %d: %s; want the URL below which /api/v1/query lies", ErrBadAnswer, status, text)
}

// refused reports whether Prometheus uses a status for queries at fault.
func refused(status int) bool {
	return status == http.StatusBadRequest || status == http.StatusUnprocessableEntity
}

// maxExpr is how much of an expression an error shows: enough to tell which.
const maxExpr = 120

// shortExpr is the beginning of an expression on one line.
func shortExpr(expr string) string { return shorten(strings.Join(strings.Fields(expr), " "), maxExpr) }

// shorten cuts a text that others wrote for use in an error message.
func shorten(s string, n int) string {
	s = strings.ToValidUTF8(strings.TrimSpace(s), "")
	if r := []rune(s); len(r) > n {
		s = string(r[:n]) + "…"
	}
	return s
}
