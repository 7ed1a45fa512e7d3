package prom

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
)

// transport adds parameters to requests and bounds the answers.
type transport struct {
	next    http.RoundTripper
	host    string // the parameters are for this host, not for where it may redirect to
	params  url.Values
	maxBody int64
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if len(t.params) > 0 && req.URL.Host == t.host {
		req = req.Clone(req.Context())
		values := req.URL.Query()
		maps.Copy(values, t.params)
		req.URL.RawQuery = values.Encode()
	}
	resp, err := t.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	resp.Body = &boundedBody{ReadCloser: resp.Body, left: t.maxBody, limit: t.maxBody}
	return resp, nil
}

// CloseIdleConnections is what http.Client looks for.
func (t *transport) CloseIdleConnections() {
	if ci, ok := t.next.(interface{ CloseIdleConnections() }); ok {
		ci.CloseIdleConnections()
	}
}

// boundedBody fails once more than limit bytes have come out of it.
type boundedBody struct {
	io.ReadCloser
	left, limit int64
}

// Read implements io.Reader.
func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, fmt.Errorf("%w: more than %d bytes; want an expression with fewer series, or a shorter lookback", ErrTooLarge, b.limit)
	}
	return n, err
}
