// The libraries under test: how each makes a handler for a kind of work.
package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/alexedwards/scs/goredisstore"
	"github.com/alexedwards/scs/v2"
	"github.com/alexedwards/scs/v2/memstore"
	"github.com/gorilla/sessions"
	"github.com/redis/go-redis/v9"
	"go.etcd.io/bbolt"
)

type subject struct {
	name       string
	clientSide bool
	// Each change is a file or a transaction: fewer rounds do.
	slow    bool
	handler func(work string, keys int) http.Handler
}

func respond(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusOK)
}

func bare() *subject {
	return &subject{name: "bare net/http", handler: func(string, int) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			sink += len(r.Header.Get("Cookie"))
			respond(w)
		})
	}}
}

// What handlers read ends here. Nobody looks.
var sink int

func manager(store scs.Store, idle time.Duration) *scs.SessionManager {
	m := scs.New()
	m.Store = store
	m.IdleTimeout = idle
	return m
}

func scsSubject(name string, store scs.Store) *subject {
	plain, idle := manager(store, 0), manager(store, 30*time.Minute)
	return &subject{name: name, handler: func(work string, keys int) http.Handler {
		m := plain
		if work == touch || work == newIdle {
			m = idle
		}
		return m.LoadAndSave(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx := r.Context()
			status := http.StatusOK
			switch work {
			case read, touch:
				sink += int(m.GetInt64(ctx, "user_id")) + len(m.GetString(ctx, "role"))
			case write:
				sink += int(m.GetInt64(ctx, "user_id")) + len(m.GetString(ctx, "role"))
				m.Put(ctx, "last_page", page())
			case newborn, newIdle:
				fill(keys, func(k string, v any) { m.Put(ctx, k, v) })
			case putFlash:
				m.Put(ctx, flashKey, flash)
			case pop, slowPop:
				if work == slowPop {
					time.Sleep(time.Millisecond)
				}
				if m.PopString(ctx, flashKey) == "" {
					status = http.StatusNoContent
				}
			case renew:
				if m.RenewToken(ctx) != nil {
					status = http.StatusInternalServerError
				}
			case destroy:
				if m.Destroy(ctx) != nil {
					status = http.StatusInternalServerError
				}
			case counting, slowCount:
				n := m.GetInt64(ctx, "count")
				if work == slowCount {
					time.Sleep(time.Millisecond)
				}
				m.Put(ctx, "count", n+1)
			case readCount:
				w.Header().Set("X-Count", strconv.FormatInt(m.GetInt64(ctx, "count"), 10))
			}
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(status)
		}))
	}}
}

func gorillaSubject(name string, store sessions.Store) *subject {
	return &subject{name: name, handler: func(work string, keys int) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if work == untouched {
				respond(w)
				return
			}
			status := http.StatusOK
			s, err := store.Get(r, "session")
			if err != nil {
				status = http.StatusInternalServerError
			}
			save := true
			switch work {
			case read, touch:
				user, _ := s.Values["user_id"].(int64)
				role, _ := s.Values["role"].(string)
				sink += int(user) + len(role)
				// A cookie lives on only if it is set anew.
				save = work == touch
			case write:
				user, _ := s.Values["user_id"].(int64)
				role, _ := s.Values["role"].(string)
				sink += int(user) + len(role)
				s.Values["last_page"] = page()
			case newborn, newIdle:
				fill(keys, func(k string, v any) { s.Values[k] = v })
			case putFlash:
				s.Values[flashKey] = flash
			case pop, slowPop:
				if work == slowPop {
					time.Sleep(time.Millisecond)
				}
				if _, found := s.Values[flashKey]; !found {
					status = http.StatusNoContent
				}
				delete(s.Values, flashKey)
			case renew:
				// A new id for the file store; for the cookie there is none.
				s.ID = ""
			case destroy:
				s.Options.MaxAge = -1
			case counting, slowCount:
				n, _ := s.Values["count"].(int64)
				if work == slowCount {
					time.Sleep(time.Millisecond)
				}
				s.Values["count"] = n + 1
			case readCount:
				n, _ := s.Values["count"].(int64)
				w.Header().Set("X-Count", strconv.FormatInt(n, 10))
				save = false
			}
			if save && s.Save(r, w) != nil {
				status = http.StatusInternalServerError
			}
			w.Header().Set("Content-Type", "text/plain")
			w.WriteHeader(status)
		})
	}}
}

var hashKey = []byte("a key of sixty-four bytes for HMAC-SHA-256, as gorilla advises..")

// make returns the subject of a name. `dir` is on a disk, and this run's own.
func makeSubject(which, dir string) (*subject, error) {
	switch which {
	case "bare":
		return bare(), nil
	case "scs-memory":
		return scsSubject("SCS, memstore", memstore.New()), nil
	case "scs-bolt":
		db, err := bbolt.Open(filepath.Join(dir, "scs.bolt"), 0o600, nil)
		if err != nil {
			return nil, err
		}
		store, err := newBolt(db)
		if err != nil {
			return nil, err
		}
		s := scsSubject("SCS, bolt", store)
		s.slow = true
		return s, nil
	case "scs-redis":
		client := redis.NewClient(&redis.Options{Addr: os.Getenv("SESSILE_BENCH_REDIS")})
		s := scsSubject("SCS, goredisstore", goredisstore.New(client))
		s.slow = true
		return s, nil
	case "gorilla-cookie":
		s := gorillaSubject("gorilla, CookieStore", sessions.NewCookieStore(hashKey))
		s.clientSide = true
		return s, nil
	case "gorilla-files":
		path := filepath.Join(dir, "gorilla")
		if err := os.MkdirAll(path, 0o700); err != nil {
			return nil, err
		}
		store := sessions.NewFilesystemStore(path, hashKey)
		store.MaxLength(64 << 10)
		s := gorillaSubject("gorilla, FilesystemStore", store)
		s.slow = true
		return s, nil
	}
	return nil, os.ErrNotExist
}
