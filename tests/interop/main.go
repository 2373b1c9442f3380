// Go's net/http with net/http/cookiejar against the playground. It sets no cookie by hand, except to present a token
// that is dead. Standard library only.
package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"runtime"
	"strings"
	"time"
)

const limit = 30 * time.Second

// failure is what the helpers panic with; it ends the scenario, not the run.
type failure string

func same[T comparable](found, expected T, what string) {
	if found != expected {
		panic(failure(fmt.Sprintf("%s: expected %#v, found %#v", what, expected, found)))
	}
}

func must(err error) {
	if err != nil {
		panic(failure(err.Error()))
	}
}

// missing is what stops a scenario that cannot run here.
type missing string

// env gives the address of a playground; `run` says what stands behind each.
func env(name string) string {
	value := os.Getenv(name)
	if value == "" {
		panic(missing("no " + name + ": TLS needs openssl and python3"))
	}
	return value
}

var roots = func() *x509.CertPool {
	pool := x509.NewCertPool()
	if pem, err := os.ReadFile(os.Getenv("CA")); err == nil {
		pool.AppendCertsFromPEM(pem)
	}
	return pool
}()

// client is an http.Client with a jar of its own.
type client struct {
	http.Client
	jar *cookiejar.Jar
	// redirects of the last request
	redirects int
}

func newClient() *client {
	jar, err := cookiejar.New(nil)
	must(err)
	return clientWith(jar)
}

func clientWith(jar *cookiejar.Jar) *client {
	c := &client{jar: jar}
	c.Jar = jar
	c.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
	c.CheckRedirect = func(*http.Request, []*http.Request) error {
		c.redirects++
		return nil
	}
	return c
}

type answer struct {
	*http.Response
	body string
}

// sent is the Cookie header of the (last) request. net/http writes the jar's cookies into the request.
func (a answer) sent() string { return a.Request.Header.Get("Cookie") }

func (c *client) send(request *http.Request) answer {
	c.redirects = 0
	c.Timeout = limit
	response, err := c.Do(request)
	must(err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	must(err)
	same(response.StatusCode, 200, request.URL.Path+" status")
	return answer{response, string(body)}
}

func request(address string) *http.Request {
	r, err := http.NewRequest("GET", address, nil)
	must(err)
	return r
}

func (c *client) get(address string) answer { return c.send(request(address)) }

func (c *client) cookies(base string) []*http.Cookie {
	u, err := url.Parse(base)
	must(err)
	return c.jar.Cookies(u)
}

func (c *client) token(base string) string {
	for _, cookie := range c.cookies(base) {
		if cookie.Name == "session" {
			return cookie.Value
		}
	}
	panic(failure("no session cookie in the jar"))
}

func count(body string) int {
	var list []json.RawMessage
	must(json.Unmarshal([]byte(body), &list))
	return len(list)
}

// stream opens /events. The function it returns gives the last event once the server has ended the stream.
func (c *client) stream(base string) func() string {
	c.Timeout = 0
	response, err := c.Do(request(base + "/events"))
	must(err)
	same(response.StatusCode, 200, "/events status")
	same(response.Header.Get("Content-Type"), "text/event-stream", "content type")
	ended := make(chan string, 1)
	go func() {
		defer response.Body.Close()
		last := ""
		lines := bufio.NewScanner(response.Body)
		for lines.Scan() {
			if line := lines.Text(); strings.HasPrefix(line, "event:") {
				last = strings.TrimSpace(strings.TrimPrefix(line, "event:"))
			}
		}
		if err := lines.Err(); err != nil {
			last = "broken off: " + err.Error()
		}
		ended <- last
	}()
	return func() string {
		select {
		case last := <-ended:
			return last
		case <-time.After(limit):
			panic(failure("the stream goes on"))
		}
	}
}

func keeps() string {
	c, base := newClient(), env("PLAIN")
	c.get(base + "/put?key=k&value=v%201")
	same(len(c.cookies(base)), 1, "cookies in the jar")
	same(c.get(base+"/get?key=k").body, "v 1", "the value")
	same(newClient().get(base+"/get?key=k").body, "", "a stranger's value")
	return ""
}

func destroys() string {
	c, base := newClient(), env("PLAIN")
	c.get(base + "/put?key=k&value=v")
	c.token(base)
	c.get(base + "/destroy")
	same(len(c.cookies(base)), 0, "cookies in the jar")
	same(c.get(base+"/get?key=k").body, "", "the value")
	return ""
}

func logsIn() string {
	c, base := newClient(), env("PLAIN")
	c.get(base + "/put?key=cart&value=book")
	before := c.token(base)
	c.get(base + "/login?owner=go-login")
	same(c.token(base) == before, false, "the token is the same as before")
	same(c.get(base+"/get?key=cart").body, "book", "the cart")
	same(count(c.get(base+"/sessions").body), 1, "sessions of the owner")
	stolen := request(base + "/get?key=cart")
	stolen.AddCookie(&http.Cookie{Name: "session", Value: before})
	same(newClient().send(stolen).body, "", "the cart with the old token")
	return ""
}

func flashes() string {
	c, base := newClient(), env("PLAIN")
	page := c.get(base + "/flash?level=success&message=Saved%20%E2%9C%93&to=/flashes")
	same(c.redirects, 1, "redirects")
	var shown []struct{ Level, Message string }
	must(json.Unmarshal([]byte(page.body), &shown))
	same(fmt.Sprint(shown), "[{success Saved ✓}]", "messages")
	same(count(c.get(base+"/flashes").body), 0, "messages of the next page")
	return ""
}

// restarted is a client as after a restart. The jar of the standard library has no file; this one keeps of the
// last answer what net/http read as persistent.
func restarted(base string, last answer) *client {
	u, err := url.Parse(base)
	must(err)
	after := newClient()
	var kept []*http.Cookie
	for _, cookie := range last.Cookies() {
		if cookie.MaxAge > 0 && cookie.Expires.After(time.Now()) {
			kept = append(kept, cookie)
		}
	}
	after.jar.SetCookies(u, kept)
	return after
}

func remembered() string {
	c, base := newClient(), env("BRIEF")
	c.get(base + "/login?owner=go-remembered")
	last := c.get(base + "/remember?on=true")
	same(len(last.Cookies()), 1, "cookies in the answer")
	same(count(restarted(base, last).get(base+"/sessions").body), 1, "sessions of the owner")
	return ""
}

func forgotten() string {
	c, base := newClient(), env("BRIEF")
	last := c.get(base + "/login?owner=go-forgotten")
	same(len(last.Cookies()), 1, "cookies in the answer")
	same(len(restarted(base, last).cookies(base)), 0, "cookies after the restart")
	c, base = newClient(), env("PLAIN")
	c.get(base + "/login?owner=go-forgotten")
	last = c.get(base + "/remember?on=false")
	same(len(last.Cookies()), 1, "cookies in the answer")
	same(len(restarted(base, last).cookies(base)), 0, "cookies after the restart")
	return ""
}

func oneTabLogsOut() string {
	tab, base := newClient(), env("PLAIN")
	tab.get(base + "/login?owner=go-tabs")
	ended := clientWith(tab.jar).stream(base) // two tabs, one jar
	tab.get(base + "/destroy")
	same(ended(), "revoked", "the last event")
	return ""
}

func allLogOut() string {
	laptop, phone, base := newClient(), newClient(), env("PLAIN")
	phone.get(base + "/login?owner=go-devices")
	phone.get(base + "/put?key=mail&value=old")
	laptop.get(base + "/login?owner=go-devices")
	same(count(laptop.get(base+"/sessions").body), 2, "sessions of the owner")
	ended := phone.stream(base)
	laptop.get(base + "/logout-everywhere")
	same(ended(), "revoked", "the last event")
	same(phone.get(base+"/get?key=mail").body, "", "the value on the phone")
	dead := phone.token(base)
	phone.get(base + "/put?key=mail&value=new")
	same(phone.token(base) == dead, false, "a dead token was taken up again")
	return ""
}

func over() string {
	c, base := newClient(), env("SHORT")
	last := c.get(base + "/put")
	same(len(last.Cookies()), 1, "cookies in the answer")
	same(last.Cookies()[0].MaxAge, 2, "Max-Age")
	time.Sleep(3 * time.Second)
	same(c.get(base+"/get").sent(), "", "what was sent")
	return ""
}

func hostOnly() string {
	c, base := newClient(), env("PLAIN")
	c.get(base + "/put?key=k&value=v")
	elsewhere := c.get(strings.Replace(base, "localhost", "127.0.0.1", 1) + "/get?key=k")
	same(elsewhere.sent(), "", "what was sent")
	same(elsewhere.body, "", "the value")
	return ""
}

func secureOverTLS() string {
	c, base := newClient(), env("TLS")
	last := c.get(base + "/put?key=k&value=v")
	same(len(last.Cookies()), 1, "cookies in the answer")
	cookie := last.Cookies()[0]
	same(cookie.Secure && cookie.HttpOnly && cookie.SameSite == http.SameSiteLaxMode, true, "Secure, HttpOnly, Lax")
	same(c.get(base+"/get?key=k").body, "v", "the value")
	return ""
}

func prefixOverTLS() string {
	c, base := newClient(), env("HOST_TLS")
	c.get(base + "/put?key=k&value=v")
	same(len(c.cookies(base)), 1, "cookies in the jar")
	same(c.cookies(base)[0].Name, "__Host-id", "the name")
	same(c.get(base+"/get?key=k").body, "v", "the value")
	return ""
}

// trustsLocalhost asks the jar itself, without a server: newer ones send a Secure cookie to http://localhost.
func trustsLocalhost() bool {
	u, err := url.Parse("http://localhost")
	must(err)
	c := newClient()
	c.jar.SetCookies(u, []*http.Cookie{{Name: "probe", Value: "1", Path: "/", Secure: true}})
	return len(c.jar.Cookies(u)) == 1
}

func overHTTP(base string) string {
	c := newClient()
	same(len(c.get(base+"/put?key=k&value=v").Cookies()), 1, "cookies in the answer")
	if trustsLocalhost() {
		same(c.get(base+"/get?key=k").body, "v", "the value")
		return "kept"
	}
	same(c.get(base+"/get?key=k").sent(), "", "what was sent")
	return "withheld"
}

func header() string {
	c, base := newClient(), env("HEADER")
	first := c.get(base + "/put?key=k&value=v")
	same(len(first.Cookies()), 0, "cookies in the answer")
	mine := first.Header.Get("X-Session-Token")
	with := request(base + "/get?key=k")
	with.Header.Set("X-Session-Token", mine)
	same(c.send(with).body, "v", "the value")
	bearer := request(base + "/get?key=k")
	bearer.Header.Set("Authorization", "Bearer "+mine)
	same(c.send(bearer).body, "v", "with Bearer")
	same(c.get(base+"/get?key=k").body, "", "without the header")
	return ""
}

func try(name string, scenario func() string) {
	defer func() {
		switch thrown := recover().(type) {
		case nil:
		case missing:
			fmt.Printf("skip\t%s\t%s\n", name, string(thrown))
		case failure:
			fmt.Printf("FAIL\t%s\t%s\n", name, strings.Join(strings.Fields(string(thrown)), " "))
		default:
			panic(thrown)
		}
	}()
	remark := scenario()
	fmt.Printf("pass\t%s\t%s\n", name, remark)
}

func main() {
	fmt.Printf("version\tGo %s\n", strings.TrimPrefix(runtime.Version(), "go"))
	try("a value comes back with the cookie", keeps)
	try("destroy removes the cookie", destroys)
	try("login gives a new token, and the old one is dead", logsIn)
	try("a flash message is read once, after the redirect", flashes)
	try("remembered: the login outlives a restart", remembered)
	try("not remembered: the login ends with the restart", forgotten)
	try("logout in one tab ends the other tab's event stream", oneTabLogsOut)
	try("logout everywhere ends another device's stream, and its cookie opens nothing", allLogOut)
	try("the cookie goes when the session's time is over", over)
	try("the cookie is not sent to another host name", hostOnly)
	try("over https: the default cookie is kept", secureOverTLS)
	try("over https: a `__Host-` cookie is kept", prefixOverTLS)
	try("over http://localhost: the default cookie, which is `Secure`", func() string { return overHTTP(env("SECURE")) })
	try("over http://localhost: a `__Host-` cookie", func() string { return overHTTP(env("HOST")) })
	try("header transport: the token goes in `X-Session-Token`, and no cookie", header)
}
