package collector

import (
	"bytes"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
)

// takeTime is how long a client may take to read an answer.
const takeTime = 15 * time.Second

// rendered compresses the whole answer of next before it sends any of it. A client that does
// not read then costs some hundred kilobytes at most, and not the metrics, which take twenty to
// a hundred times as much. It does not use the compression of promhttp, which takes longer than
// the rest of a usual scrape (docs/performance.md).
func rendered(next http.Handler) http.Handler {
	writers := sync.Pool{New: func() any {
		w, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level is in range
		return w
	}}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		zip, _ := writers.Get().(*gzip.Writer)
		zip.Reset(&body)
		a := answer{header: w.Header(), status: http.StatusOK, body: zip}
		next.ServeHTTP(&a, r)
		err := zip.Close()
		writers.Put(zip)
		if err != nil { // cannot happen: a Buffer takes everything
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		// Not every ResponseWriter has deadlines. The server has one of its own.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(takeTime))
		a.send(w, &body, takesGzip(r))
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

// send sends the answer. net/http handles a client that does not read it.
func (a *answer) send(w http.ResponseWriter, body *bytes.Buffer, asIs bool) {
	a.header.Add("Vary", "Accept-Encoding")
	if asIs {
		a.header.Set("Content-Encoding", "gzip")
		a.header.Set("Content-Length", strconv.Itoa(body.Len()))
		w.WriteHeader(a.status)
		_, _ = body.WriteTo(w)
		return
	}
	w.WriteHeader(a.status)
	if plain, err := gzip.NewReader(body); err == nil {
		_, _ = io.Copy(w, plain)
	}
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
