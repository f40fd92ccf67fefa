package httplimit

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
)

// readTime is how long a client may take to read an answer.
const readTime = 15 * time.Second

// Compressed compresses the whole answer of next before it sends any of it. A client that does
// not read then costs some hundred kilobytes at most, and not the answer as text, which takes
// twenty to a hundred times as much. After 15 s its connection is closed. Compressed does not use
// the compression of promhttp, which takes longer than the rest of a usual scrape
// (docs/performance.md).
func Compressed(next http.Handler) http.Handler {
	// A sync.Pool would make them anew after each second garbage collection: 0.7 MB each.
	kept := make(chan *gzip.Writer, 1)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		var zip *gzip.Writer
		select {
		case zip = <-kept:
		default:
			zip, _ = gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level is in range
		}
		zip.Reset(&body)
		a := answer{header: w.Header(), status: http.StatusOK, body: zip}
		// Nothing is sent before the answer is whole. HTTP/2 resets a stream whose deadline passes.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
		next.ServeHTTP(&a, r)
		err := zip.Close()
		select {
		case kept <- zip:
		default:
		}
		if err != nil { // cannot happen: a Buffer takes everything
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		// Not every ResponseWriter has deadlines. The server has one of its own.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(readTime))
		sends(r)
		err = a.send(w, &body, takesGzip(r))
		if conn := connOf(r.Context()); conn != nil && errors.Is(err, os.ErrDeadlineExceeded) {
			cut(conn) // or the kernel keeps what was not read
		}
	})
}

// An answer is a ResponseWriter that compresses.
type answer struct {
	header http.Header
	status int
	body   *gzip.Writer
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(status int)      { a.status = status }
func (a *answer) Write(p []byte) (int, error) { return a.body.Write(p) }

// send sends the answer.
func (a *answer) send(w http.ResponseWriter, body *bytes.Buffer, asIs bool) error {
	a.header.Add("Vary", "Accept-Encoding")
	if asIs {
		a.header.Set("Content-Encoding", "gzip")
		a.header.Set("Content-Length", strconv.Itoa(body.Len()))
		w.WriteHeader(a.status)
		_, err := body.WriteTo(w)
		return err
	}
	w.WriteHeader(a.status)
	plain, err := gzip.NewReader(body)
	if err == nil {
		_, err = io.Copy(w, plain)
	}
	return err
}

// takesGzip says whether Accept-Encoding (RFC 9110, 12.5.3) names gzip and does not refuse it.
func takesGzip(r *http.Request) bool {
	for _, value := range r.Header.Values("Accept-Encoding") {
		for coding := range strings.SplitSeq(value, ",") {
			name, weight, _ := strings.Cut(strings.TrimSpace(coding), ";")
			if !strings.EqualFold(strings.TrimSpace(name), "gzip") {
				continue
			}
			_, q, ok := strings.Cut(weight, "=")
			if quality, err := strconv.ParseFloat(strings.TrimSpace(q), 64); !ok || err != nil || quality > 0 {
				return true
			}
		}
	}
	return false
}
