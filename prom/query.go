package prom

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/cenkalti/backoff/v5"
	v1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"

	"github.com/kubeforecaster/kubeforecaster/forecaster"
)

// Pauses between attempts: about firstPause, then twice as long each time, give
// or take half, so that clients which failed together do not return together.
const (
	firstPause    = 250 * time.Millisecond
	maxPause      = 5 * time.Second
	maxRetryAfter = 30 * time.Second // A server that asks for more is asked again nevertheless.
)

// query is one query on its way. client_golang makes the request and reads the
// answer; query is the api.Client in between, which sends the request as often
// as needed.
type query struct {
	client *Client
	status int   // of the newest answer, or 0
	failed error // why the newest attempt failed, or nil
}

func (q *query) overRange(ctx context.Context, expr string, r forecaster.Range) (model.Value, v1.Warnings, error) {
	v, warnings, _, err := v1.NewAPI(q).QueryRange(ctx, expr, v1.Range{Start: r.Start, End: r.End, Step: r.Step}, q.timeout())
	return v, warnings, answerError(err, q.status)
}

func (q *query) instant(ctx context.Context, expr string, at time.Time) (model.Value, v1.Warnings, error) {
	v, warnings, _, err := v1.NewAPI(q).Query(ctx, expr, at, q.timeout())
	return v, warnings, answerError(err, q.status)
}

// timeout asks the server to give up when the client does, rounded up to what
// Prometheus reads: whole seconds.
func (q *query) timeout() v1.Option {
	return v1.WithTimeout((q.client.opts.Timeout + time.Second - 1).Truncate(time.Second))
}

// URL implements api.Client.
func (q *query) URL(ep string, args map[string]string) *url.URL { return q.client.api.URL(ep, args) }

// reply is an answer as it came.
type reply struct {
	*http.Response
	body []byte
}

// errAgain marks a reply that is worth another attempt.
var errAgain = errors.New("status calls for another attempt")

// Do implements api.Client. It returns the last answer whatever its status, or
// else why there is none.
func (q *query) Do(ctx context.Context, req *http.Request) (*http.Response, []byte, error) {
	c := q.client
	r, err := backoff.Retry(ctx, func() (reply, error) { return q.attempt(ctx, req) },
		backoff.WithBackOff(&backoff.ExponentialBackOff{
			InitialInterval: c.opts.firstPause, Multiplier: 2, RandomizationFactor: 0.5, MaxInterval: maxPause,
		}),
		backoff.WithMaxTries(uint(c.opts.MaxAttempts)),
		backoff.WithMaxElapsedTime(untilDeadline(ctx)),
		backoff.WithNotify(func(_ error, pause time.Duration) {
			c.metrics.retries.Inc()
			c.opts.Logger.Debug("Query of Prometheus failed; trying again", "err", q.failed, "pause", pause)
		}))
	if err != nil && ctx.Err() != nil {
		return nil, nil, q.gaveUp(context.Cause(ctx))
	}
	if r.Response != nil {
		return r.Response, r.body, nil
	}
	return nil, nil, err
}

// untilDeadline is what is left of the context's time, or 0 when there is no
// end to it: a pause that would outlast it is not begun.
func untilDeadline(ctx context.Context) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0
	}
	return max(time.Until(deadline), 1)
}

// gaveUp says why a context that ended ended the query, and what was wrong up
// to then.
func (q *query) gaveUp(cause error) error {
	switch {
	case q.failed == nil:
		return cause
	case errors.Is(q.failed, cause):
		return q.failed
	}
	return fmt.Errorf("%w; before that: %w", cause, q.failed)
}

// attempt sends the request once. Errors that another attempt cannot mend are
// marked as permanent.
func (q *query) attempt(ctx context.Context, req *http.Request) (reply, error) {
	if err := q.client.slots.Acquire(ctx, 1); err != nil {
		return reply{}, backoff.Permanent(err)
	}
	defer q.client.slots.Release(1)
	resp, body, err := q.send(ctx, req)
	if err != nil {
		q.status, q.failed = 0, err
		if errors.Is(err, ErrUnreachable) {
			return reply{}, err
		}
		return reply{}, backoff.Permanent(err)
	}
	q.status, q.failed = resp.StatusCode, nil
	r := reply{Response: resp, body: body}
	if !again(resp.StatusCode) {
		return r, nil
	}
	q.failed = fmt.Errorf("%w: status %s", ErrUnavailable, resp.Status)
	if pause, ok := retryAfter(resp.Header.Get("Retry-After"), time.Now()); ok {
		return r, &backoff.RetryAfterError{Duration: pause}
	}
	return r, errAgain
}

// again reports whether a status is worth another attempt. Not Implemented is
// not: client_golang takes it as a sign to use GET.
func again(status int) bool {
	return status == http.StatusTooManyRequests || status >= 500 && status != http.StatusNotImplemented
}

func (q *query) send(ctx context.Context, req *http.Request) (*http.Response, []byte, error) {
	timed, cancel := context.WithTimeout(ctx, q.client.opts.Timeout)
	defer cancel()
	req = req.Clone(timed)
	if req.GetBody != nil {
		body, err := req.GetBody()
		if err != nil {
			return nil, nil, fmt.Errorf("read body of request: %w", err)
		}
		req.Body = body
	}
	resp, body, err := q.client.api.Do(timed, req)
	switch {
	case err == nil:
		return resp, body, nil
	case timed.Err() != nil && ctx.Err() == nil:
		return nil, nil, fmt.Errorf("%w: no answer within %s", ErrUnreachable, q.client.opts.Timeout)
	}
	return nil, nil, sendError(err)
}

// retryAfter reads the header of that name, in seconds or as a date, and keeps
// it within bounds.
func retryAfter(header string, now time.Time) (time.Duration, bool) {
	if seconds, err := strconv.Atoi(header); err == nil {
		seconds = min(max(seconds, 0), int(maxRetryAfter.Seconds()))
		return time.Duration(seconds) * time.Second, true
	}
	if at, err := http.ParseTime(header); err == nil {
		return min(max(at.Sub(now), 0), maxRetryAfter), true
	}
	return 0, false
}
