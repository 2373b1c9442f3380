// One request after the other through each library, in this process.
package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"slices"
	"time"
)

var root = &url.URL{Path: "/"}

type cost struct{ ns, allocations, bytes float64 }

// Requests that are on the clock together, as in subject.rs.
const slice = 250

// prepare makes the cookie of a step, off the clock, a slice ahead of it.
func measured(n int, prepare func(int) string, step func(int, string)) cost {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var times []float64
	var ready [slice]string
	for from := 0; from < n; from += slice {
		to := min(n, from+slice)
		for i := from; i < to; i++ {
			ready[i-from] = received(prepare(i))
		}
		start := time.Now()
		for i := from; i < to; i++ {
			step(i, ready[i-from])
		}
		times = append(times, since(start)*1e9/float64(to-from))
	}
	runtime.ReadMemStats(&after)
	per := func(x float64) float64 { return x / float64(n) }
	return cost{median(times), per(float64(after.Mallocs - before.Mallocs)), per(float64(after.TotalAlloc - before.TotalAlloc))}
}

// received is a cookie as it comes out of a socket: its bytes are in the processor's cache, because they have just been
// read.
func received(cookie string) string {
	sum := byte(0)
	for i := range len(cookie) {
		sum ^= cookie[i]
	}
	sink += int(sum)
	return cookie
}

func subjects(s settings) ([]*subject, error) {
	var all []*subject
	for _, which := range s.only {
		made, err := makeSubject(which, s.dir)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", which, err)
		}
		all = append(all, made)
	}
	return all, nil
}

func cycle(s settings) error {
	for _, keys := range s.keys {
		for _, sessions := range s.sessions {
			all, err := subjects(s)
			if err != nil {
				return err
			}
			cycleWith(s, all, keys, sessions)
		}
	}
	return nil
}

type taken struct {
	work    string
	subject int
}

func cycleWith(s settings, all []*subject, keys, sessions int) {
	plain, idle := make([][]string, len(all)), make([][]string, len(all))
	for i, one := range all {
		n := sessions
		if one.clientSide || one.slow {
			n = min(n, 10_000)
		}
		if i == 0 {
			plain[i], idle[i] = foreign(n), foreign(n)
			continue
		}
		if err := works(one, keys); err != nil {
			fmt.Fprintf(os.Stderr, "left out with %d keys: %s: %v\n", keys, one.name, err)
			continue
		}
		plain[i] = populate(one, newborn, n, keys)
		idle[i] = populate(one, newIdle, min(n, 20_000), keys)
	}
	// What does not work is not measured.
	for i := len(all) - 1; i >= 0; i-- {
		if plain[i] == nil {
			all, plain, idle = slices.Delete(all, i, i+1), slices.Delete(plain, i, i+1), slices.Delete(idle, i, i+1)
		}
	}
	costs := map[taken][]cost{}
	numbers := newStream(11)
	random := []string{untouched, read, write}
	if s.life {
		random = append(random, touch)
	}
	life := []string{newborn, putFlash, pop, renew, destroy}
	runtime.GC()
	for round := 0; round <= s.rounds; round++ {
		for _, work := range random {
			for i, one := range all {
				from := plain[i]
				if work == touch {
					from = idle[i]
				}
				n := s.batch
				if one.slow {
					n /= 5
				}
				c := cycleRandom(one.handler(work, keys), from, numbers, n)
				if round > 0 {
					costs[taken{work, i}] = append(costs[taken{work, i}], c)
				}
			}
		}
		if !s.life {
			continue
		}
		born := make([][]string, len(all))
		for _, work := range life {
			for i, one := range all {
				if born[i] == nil {
					born[i] = make([]string, s.batch/10)
				}
				c := cycleEach(one.handler(work, keys), born[i], work)
				if round > 0 && work != putFlash {
					costs[taken{work, i}] = append(costs[taken{work, i}], c)
				}
			}
		}
	}
	for _, work := range append(random, life...) {
		for i, one := range all {
			taken := costs[taken{work, i}]
			if len(taken) == 0 {
				continue
			}
			a := about{"cycle", work, one.name, keys, sessions, 1}
			of := func(f func(cost) float64) []float64 {
				var values []float64
				for _, c := range taken {
					values = append(values, f(c))
				}
				return values
			}
			figure(a, "time", "ns", of(func(c cost) float64 { return c.ns }))
			figure(a, "allocations", "1", of(func(c cost) float64 { return c.allocations }))
			figure(a, "allocated", "B", of(func(c cost) float64 { return c.bytes }))
		}
	}
}

// works checks that a new session keeps a value, gives it once, and not again.
func works(s *subject, keys int) error {
	cookie := cookieOf(one(s.handler(newborn, keys), "").header)
	if cookie == "" {
		return errors.New("no cookie for a new session")
	}
	for _, step := range []struct {
		work   string
		status int
	}{{read, 200}, {putFlash, 200}, {pop, 200}, {pop, 204}} {
		response := one(s.handler(step.work, keys), cookie)
		if response.status != step.status {
			return fmt.Errorf("%s: %d instead of %d", step.work, response.status, step.status)
		}
		if changed := cookieOf(response.header); changed != "" {
			cookie = changed
		}
	}
	return nil
}

func cycleRandom(handler http.Handler, cookies []string, numbers *stream, n int) cost {
	for range n / 8 {
		one(handler, cookies[numbers.below(len(cookies))])
	}
	prepare := func(int) string { return cookies[numbers.below(len(cookies))] }
	return measured(n, prepare, func(_ int, cookie string) { one(handler, cookie) })
}

func cycleEach(handler http.Handler, cookies []string, work string) cost {
	heads := make([]http.Header, len(cookies))
	prepare := func(i int) string {
		if work == newborn {
			return ""
		}
		return cookies[i]
	}
	c := measured(len(cookies), prepare, func(i int, cookie string) {
		heads[i] = one(handler, cookie).header
	})
	for i, head := range heads {
		if cookie := cookieOf(head); cookie != "" {
			cookies[i] = cookie
		}
	}
	return c
}

// foreign makes cookies that nobody issued, as long as SCS's.
func foreign(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("session=%043d", i)
	}
	return all
}
