// What a handler does with a session, and the values it does it with: those of peers/src/work.rs.
package main

import "fmt"

const (
	untouched = "untouched"
	read      = "read"
	write     = "write"
	touch     = "touch"
	newborn   = "new"
	newIdle   = "new-idle"
	putFlash  = "put-flash"
	pop       = "pop"
	renew     = "renew"
	destroy   = "destroy"
	counting  = "count"
	slowCount = "slow-count"
	slowPop   = "slow-pop"
	readCount = "read-count"
)

const (
	flashKey = "saved"
	name     = "abcdefghijklmnopqrst"
	role     = "operator"
	csrf     = "0123456789abcdef0123456789abcdef"
	flash    = "your changes are saved"
)

var pages = func() []string {
	all := make([]string, 251)
	for i := range all {
		all[i] = fmt.Sprintf("/a/page/with/a/path/that/is/quite/long/but/not/absurd/%06d", i)
	}
	return all
}()

// Racing increments lose some, which costs nobody anything.
var nextPage uint32

func page() string {
	nextPage++
	return pages[nextPage%uint32(len(pages))]
}

var moreNames = func() []string {
	all := make([]string, 245)
	for i := range all {
		all[i] = fmt.Sprintf("field_%03d", i+5)
	}
	return all
}()

// fill puts the first `keys` keys.
func fill(keys int, put func(key string, value any)) {
	put("user_id", int64(4711))
	put("name", name)
	put("role", role)
	put("csrf", csrf)
	put("last_page", page())
	for i := 0; i < keys-5; i++ {
		if i%2 == 1 {
			put(moreNames[i], "sixteen bytes of")
		} else {
			put(moreNames[i], int64(i))
		}
	}
}

// stream is xorshift64*, as data.rs has it.
type stream uint64

func newStream(seed uint64) *stream {
	s := stream(seed | 1)
	return &s
}

func (s *stream) below(n int) int {
	x := uint64(*s)
	x ^= x >> 12
	x ^= x << 25
	x ^= x >> 27
	*s = stream(x)
	return int((x * 0x2545_F491_4F6C_DD1D) % uint64(n))
}
