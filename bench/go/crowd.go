// Many requests at once: how much two threads do, what a race for one session loses, and what waits meanwhile.
package main

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/alexedwards/scs/v2/memstore"
)

type crowd struct {
	requests, ok int
	seconds      float64
	latencies    []float64
}

// gather lets `tasks` work until `length` is over; none at all means one request each.
func gather(handler http.Handler, cookies []string, tasks int, length time.Duration) crowd {
	var stop atomic.Bool
	var group sync.WaitGroup
	results := make([]crowd, tasks)
	start := time.Now()
	for task := range tasks {
		group.Add(1)
		go func() {
			defer group.Done()
			mine := &results[task]
			numbers := newStream(uint64(task)*7919 + 1)
			for {
				cookie := cookies[numbers.below(len(cookies))]
				sampled := mine.requests%16 == 0
				var begun time.Time
				if sampled {
					begun = time.Now()
				}
				response := one(handler, cookie)
				if sampled {
					mine.latencies = append(mine.latencies, since(begun)*1e6)
				}
				mine.requests++
				if response.status == http.StatusOK {
					mine.ok++
				}
				if length == 0 || stop.Load() {
					return
				}
				runtime.Gosched()
			}
		}()
	}
	if length > 0 {
		time.Sleep(length)
		stop.Store(true)
	}
	group.Wait()
	all := crowd{seconds: since(start)}
	for _, r := range results {
		all.requests += r.requests
		all.ok += r.ok
		all.latencies = append(all.latencies, r.latencies...)
	}
	slices.Sort(all.latencies)
	return all
}

func (s settings) length() time.Duration { return time.Duration(s.seconds * float64(time.Second)) }

// crowds: 64 tasks over many sessions, on one thread and on two.
func crowds(s settings) error {
	all, err := subjects(s)
	if err != nil {
		return err
	}
	keys, sessions := s.keys[0], s.sessions[0]
	cookies := make([][]string, len(all))
	for i, subject := range all {
		if i == 0 {
			cookies[i] = foreign(1000)
		} else if subject.clientSide || subject.slow {
			cookies[i] = populate(subject, newborn, min(sessions, 10_000), keys)
		} else {
			cookies[i] = populate(subject, newborn, sessions, keys)
		}
	}
	rates := map[string][]float64{}
	for range s.rounds {
		for _, work := range []string{read, write} {
			for _, threads := range []int{1, 2} {
				runtime.GOMAXPROCS(threads)
				for i, subject := range all {
					c := gather(subject.handler(work, keys), cookies[i], 64, s.length())
					key := fmt.Sprintf("%s/%d/%d", work, threads, i)
					rates[key] = append(rates[key], float64(c.requests)/c.seconds)
				}
			}
		}
	}
	for _, work := range []string{read, write} {
		for _, threads := range []int{1, 2} {
			for i, subject := range all {
				a := about{"crowd", work, subject.name, keys, sessions, threads}
				figure(a, "rate", "1/s", rates[fmt.Sprintf("%s/%d/%d", work, threads, i)])
			}
		}
	}
	return nil
}

// races: 64 requests on one session.
func races(s settings) error {
	all, err := subjects(s)
	if err != nil {
		return err
	}
	keys := s.keys[0]
	for _, subject := range all[1:] {
		a := about{"race", "one-session", subject.name, keys, 1, 2}
		if !subject.clientSide {
			var kept, delivered []float64
			for range s.rounds {
				cookie := populate(subject, newborn, 1, keys)
				gather(subject.handler(slowCount, keys), cookie, 64, 0)
				text := one(subject.handler(readCount, keys), cookie[0]).header.Get("X-Count")
				n, _ := strconv.ParseFloat(text, 64)
				kept = append(kept, n)
				one(subject.handler(putFlash, keys), cookie[0])
				delivered = append(delivered, float64(gather(subject.handler(slowPop, keys), cookie, 64, 0).ok))
			}
			figure(a, "updates kept of 64", "1", kept)
			figure(a, "pops delivered of 1", "1", delivered)
		}
		cookies := populate(subject, newborn, min(s.sessions[0], 10_000), keys)
		var one, spread []float64
		for range s.rounds {
			c := gather(subject.handler(counting, keys), cookies[:1], 64, s.length())
			one = append(one, float64(c.requests)/c.seconds)
			c = gather(subject.handler(counting, keys), cookies, 64, s.length())
			spread = append(spread, float64(c.requests)/c.seconds)
		}
		figure(a, "rate on one session", "1/s", one)
		figure(a, "rate on many sessions", "1/s", spread)
	}
	return nil
}

func resident() float64 {
	statm, _ := os.ReadFile("/proc/self/statm")
	pages, _ := strconv.ParseFloat(strings.Fields(string(statm))[1], 64)
	return pages * 4096
}

// memory of one subject: the second of -only.
func memory(s settings) error {
	all, err := subjects(s)
	if err != nil {
		return err
	}
	subject, sessions, keys := all[len(all)-1], s.sessions[0], s.keys[0]
	debug.FreeOSMemory()
	before := resident()
	handler := subject.handler(newborn, keys)
	for range sessions {
		one(handler, "")
	}
	a := about{"memory", "resident", subject.name, keys, sessions, 1}
	figure(a, "memory", "B", []float64{(resident() - before) / float64(sessions)})
	debug.FreeOSMemory()
	a.workload = "resident after freeing"
	figure(a, "memory", "B", []float64{(resident() - before) / float64(sessions)})
	runtime.KeepAlive(subject)
	return nil
}

// expiry: a tenth of the sessions ends at once, while two others are read as fast as they go.
func expiry(s settings) error {
	sessions, keys := s.sessions[0], s.keys[0]
	store := memstore.NewWithCleanupInterval(time.Second)
	subject := scsSubject("SCS, memstore", store)
	cookies := populate(subject, newborn, sessions-sessions/10, keys)
	expiring := manager(store, 0)
	life := 10 * time.Second
	expiring.Lifetime = life
	handler := expiring.LoadAndSave(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		fill(keys, func(k string, v any) { expiring.Put(r.Context(), k, v) })
	}))
	for range sessions / 10 {
		one(handler, "")
	}
	runtime.GC()
	reading := subject.handler(read, keys)
	for _, phase := range []struct {
		name   string
		length time.Duration
	}{{"calm", 2 * time.Second}, {"expiring", life + 2*time.Second}} {
		longest, total := 0.0, 0
		numbers := newStream(3)
		for start := time.Now(); time.Since(start) < phase.length; total++ {
			begun := time.Now()
			one(reading, cookies[numbers.below(len(cookies))])
			longest = max(longest, since(begun)*1e3)
		}
		a := about{"expiry", phase.name, subject.name, keys, sessions, 1}
		figure(a, "longest request", "ms", []float64{longest})
	}
	return nil
}

// durable: how many changes a second the disk has.
func durable(s settings) error {
	all, err := subjects(s)
	if err != nil {
		return err
	}
	keys, sessions := s.keys[0], min(s.sessions[0], 1000)
	for _, subject := range all[1:] {
		cookies := populate(subject, newborn, sessions, keys)
		for _, writers := range []int{1, 64} {
			var rates, waits []float64
			for range s.rounds {
				c := gather(subject.handler(write, keys), cookies, writers, s.length())
				rates = append(rates, float64(c.requests)/c.seconds)
				waits = append(waits, quantile(c.latencies, 0.99))
			}
			a := about{"durable", fmt.Sprintf("%d writers", writers), subject.name, keys, sessions, 2}
			figure(a, "rate", "1/s", rates)
			figure(a, "p99", "us", waits)
		}
	}
	return nil
}

// serve answers /WORK over HTTP with the second subject of -only, or the only one, until stdin ends.
func serve(s settings) error {
	all, err := subjects(s)
	if err != nil {
		return err
	}
	runtime.GOMAXPROCS(1)
	subject, keys := all[len(all)-1], s.keys[0]
	mux := http.NewServeMux()
	for _, work := range []string{untouched, read, write, newborn} {
		mux.Handle("/"+work, subject.handler(work, keys))
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Printf("{\"name\":%q,\"address\":%q}\n", subject.name, listener.Addr().String())
	go func() {
		bufio.NewReader(os.Stdin).ReadString('\n')
		os.RemoveAll(s.dir)
		os.Exit(0)
	}()
	return http.Serve(listener, mux)
}
