// The peers in Go: the same work, values and streams as bench/peers, the same lines of JSON.
//
//	go run . COMMAND [-keys 5,50] [-sessions N,…] [-rounds N] [-batch N] [-seconds S] [-life] [-only a,b] [-dir PATH]
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"
)

type settings struct {
	keys, sessions []int
	rounds, batch  int
	seconds        float64
	life           bool
	only           []string
	dir            string
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) < 2 {
		return fmt.Errorf("no command")
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ContinueOnError)
	keys := flags.String("keys", "5", "keys of a session")
	sessions := flags.String("sessions", "100000", "sessions")
	rounds := flags.Int("rounds", 9, "rounds")
	batch := flags.Int("batch", 5000, "requests a round")
	seconds := flags.Float64("seconds", 2, "length of a timed run")
	life := flags.Bool("life", false, "new, pop, renew, destroy and touch too")
	only := flags.String("only", "bare,scs-memory,gorilla-cookie,gorilla-files", "subjects")
	parent := flags.String("dir", "", "where files go")
	if err := flags.Parse(os.Args[2:]); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(*parent, "sessile-bench-go-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	s := settings{
		keys: numbers(*keys), sessions: numbers(*sessions), rounds: *rounds, batch: *batch,
		seconds: *seconds, life: *life, only: strings.Split(*only, ","), dir: dir,
	}
	switch os.Args[1] {
	case "cycle":
		return cycle(s)
	case "versions":
		return versions()
	case "crowd":
		return crowds(s)
	case "race":
		return races(s)
	case "memory":
		return memory(s)
	case "expiry":
		return expiry(s)
	case "durable":
		return durable(s)
	case "serve":
		return serve(s)
	}
	return fmt.Errorf("unknown command %s", os.Args[1])
}

func numbers(text string) []int {
	var all []int
	for _, part := range strings.Split(text, ",") {
		n, _ := strconv.Atoi(strings.ReplaceAll(part, "_", ""))
		all = append(all, n)
	}
	return all
}

type about struct {
	suite, workload, subject string
	keys, sessions, threads  int
}

// figure prints the median with the distance between the quartiles, as out.rs does.
func figure(a about, metric, unit string, values []float64) {
	slices.Sort(values)
	line, _ := json.Marshal(map[string]any{
		"suite": a.suite, "workload": a.workload, "subject": a.subject,
		"keys": a.keys, "sessions": a.sessions, "threads": a.threads,
		"metric": metric, "unit": unit, "n": len(values),
		"median": rounded(quantile(values, 0.5)),
		"spread": rounded(quantile(values, 0.75) - quantile(values, 0.25)),
	})
	fmt.Println(string(line))
}

func rounded(x float64) float64 {
	if x == 0 || math.IsNaN(x) || math.IsInf(x, 0) {
		return 0
	}
	scale := math.Pow(10, 4-math.Ceil(math.Log10(math.Abs(x))))
	return math.Round(x*scale) / scale
}

func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	at := float64(len(sorted)-1) * q
	low, high := sorted[int(math.Floor(at))], sorted[int(math.Ceil(at))]
	return low + (high-low)*(at-math.Floor(at))
}

func median(values []float64) float64 {
	slices.Sort(values)
	return quantile(values, 0.5)
}

func versions() error {
	say := func(name, version string) {
		line, _ := json.Marshal(map[string]string{"suite": "version", "subject": name, "version": version})
		fmt.Println(string(line))
	}
	say("Go", strings.TrimPrefix(runtime.Version(), "go"))
	info, _ := debug.ReadBuildInfo()
	for _, dep := range info.Deps {
		switch dep.Path {
		case "github.com/alexedwards/scs/v2", "github.com/alexedwards/scs/goredisstore", "github.com/gorilla/sessions",
			"github.com/gorilla/securecookie", "go.etcd.io/bbolt", "github.com/redis/go-redis/v9":
			say(strings.TrimPrefix(dep.Path, "github.com/"), strings.TrimPrefix(dep.Version, "v"))
		}
	}
	return nil
}

// recorder keeps the head of a response and nothing else.
type recorder struct {
	header http.Header
	status int
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) Write(b []byte) (int, error) { return len(b), nil }
func (r *recorder) WriteHeader(status int)      { r.status = status }

func one(h http.Handler, cookie string) *recorder {
	request := &http.Request{
		Method: http.MethodGet, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{},
		Host: "localhost", URL: root,
	}
	if cookie != "" {
		request.Header["Cookie"] = []string{cookie}
	}
	response := &recorder{header: http.Header{}}
	h.ServeHTTP(response, request)
	return response
}

func cookieOf(header http.Header) string {
	for _, line := range header["Set-Cookie"] {
		pair, _, _ := strings.Cut(line, ";")
		_, value, _ := strings.Cut(pair, "=")
		if value != "" && !strings.Contains(line, "Max-Age=0") {
			return pair
		}
	}
	return ""
}

func populate(s *subject, work string, n, keys int) []string {
	handler := s.handler(work, keys)
	cookies := make([]string, n)
	for i := range cookies {
		cookies[i] = cookieOf(one(handler, "").header)
	}
	return cookies
}

func since(start time.Time) float64 { return time.Since(start).Seconds() }
