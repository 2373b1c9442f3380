#!/usr/bin/env python3
"""Python's `requests` with its own cookie jar (http.cookiejar) against the playground. It sets no cookie by hand,
except to present a token that is dead."""
import http.cookiejar
import os
import platform
import tempfile
import threading
import time

import requests

from report import env, run, same, scenario, true

CA = os.environ.get("CA")
LIMIT = 30


def client():
    c = requests.Session()
    c.trust_env = False  # no proxy, no .netrc
    c.verify = CA
    return c


def get(c, base, path, **more):
    answer = c.get(base + path, timeout=LIMIT, **more)
    answer.raise_for_status()
    return answer


def token(c, name="session"):
    return next((k.value for k in c.cookies if k.name == name), None)


def restarted(c):
    """A new client with what the old one's jar keeps on disk: session cookies are not among it."""
    with tempfile.NamedTemporaryFile() as file:
        saved = http.cookiejar.LWPCookieJar(file.name)
        for cookie in c.cookies:
            saved.set_cookie(cookie)
        saved.save()
        loaded = http.cookiejar.LWPCookieJar(file.name)
        loaded.load()
    after = client()
    after.cookies.update(loaded)
    return after


class Stream:
    """An open `/events`. `wait` gives the names of the events once the server has ended it."""

    def __init__(self, c, base):
        self.answer = c.get(base + "/events", stream=True, timeout=LIMIT)
        self.answer.raise_for_status()
        same(self.answer.headers["content-type"], "text/event-stream", "content type")
        self.events = []
        self.failed = None
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        try:
            for line in self.answer.iter_lines(chunk_size=1, decode_unicode=True):
                if line.startswith("event:"):
                    self.events.append(line.removeprefix("event:").strip())
        except requests.RequestException as e:
            self.failed = e

    def wait(self):
        self.thread.join(LIMIT)
        true(not self.thread.is_alive(), f"the stream goes on; so far {self.events}")
        true(self.failed is None, f"the stream broke off: {self.failed}")
        return self.events


def sessions(c, base):
    return get(c, base, "/sessions").json()


@scenario("a value comes back with the cookie")
def keeps():
    c, base = client(), env("PLAIN")
    get(c, base, "/put?key=k&value=v%201")
    same(len(c.cookies), 1, "cookies in the jar")
    same(get(c, base, "/get?key=k").text, "v 1", "the value")
    same(get(client(), base, "/get?key=k").text, "", "a stranger's value")


@scenario("destroy removes the cookie")
def destroys():
    c, base = client(), env("PLAIN")
    get(c, base, "/put?key=k&value=v")
    true(token(c), "no cookie to begin with")
    get(c, base, "/destroy")
    same(len(c.cookies), 0, "cookies in the jar")
    same(get(c, base, "/get?key=k").text, "", "the value")


@scenario("login gives a new token, and the old one is dead")
def logs_in():
    c, base = client(), env("PLAIN")
    get(c, base, "/put?key=cart&value=book")
    before = token(c)
    get(c, base, "/login?owner=requests-login")
    after = token(c)
    true(before and after and before != after, "the token is the same as before")
    same(get(c, base, "/get?key=cart").text, "book", "the cart")
    same(len(sessions(c, base)), 1, "sessions of the owner")
    thief = client()
    thief.cookies.set("session", before, domain="localhost.local", path="/")
    stolen = get(thief, base, "/get?key=cart")
    same(stolen.request.headers.get("cookie"), f"session={before}", "what was presented")
    same(stolen.text, "", "the cart with the old token")


@scenario("a flash message is read once, after the redirect")
def flashes():
    c, base = client(), env("PLAIN")
    page = get(c, base, "/flash?level=success&message=Saved%20%E2%9C%93&to=/flashes")
    same([r.status_code for r in page.history], [303], "redirects")
    same([(f["level"], f["message"]) for f in page.json()], [("success", "Saved ✓")], "messages")
    same(get(c, base, "/flashes").json(), [], "messages of the next page")


@scenario("remembered: the login outlives a restart")
def remembered():
    c, base = client(), env("BRIEF")
    get(c, base, "/login?owner=requests-remembered")
    get(c, base, "/remember?on=true")
    c = restarted(c)
    same(len(sessions(c, base)), 1, "sessions of the owner")


@scenario("not remembered: the login ends with the restart")
def forgotten():
    for base, remember in ((env("BRIEF"), None), (env("PLAIN"), "/remember?on=false")):
        c = client()
        get(c, base, "/login?owner=requests-forgotten")
        if remember:
            get(c, base, remember)
        get(c, base, "/put?key=k&value=v")
        same(get(c, base, "/get?key=k").text, "v", "the value before")
        c = restarted(c)
        same(len(c.cookies), 0, "cookies in the jar")
        same(get(c, base, "/get?key=k").text, "", "the value")


@scenario("logout in one tab ends the other tab's event stream")
def one_tab_logs_out():
    base = env("PLAIN")
    tab = client()
    get(tab, base, "/login?owner=requests-tabs")
    other = client()
    other.cookies = tab.cookies  # two tabs, one jar
    stream = Stream(other, base)
    get(tab, base, "/destroy")
    same(stream.wait()[-1:], ["revoked"], "the last event")


@scenario("logout everywhere ends another device's stream, and its cookie opens nothing")
def all_log_out():
    base = env("PLAIN")
    laptop, phone = client(), client()
    get(phone, base, "/login?owner=requests-devices")
    get(phone, base, "/put?key=mail&value=old")
    get(laptop, base, "/login?owner=requests-devices")
    same(len(sessions(laptop, base)), 2, "sessions of the owner")
    stream = Stream(phone, base)
    get(laptop, base, "/logout-everywhere")
    same(stream.wait()[-1:], ["revoked"], "the last event")
    same(get(phone, base, "/get?key=mail").text, "", "the value on the phone")
    dead = token(phone)
    get(phone, base, "/put?key=mail&value=new")
    true(token(phone) not in (None, dead), "a dead token was taken up again")


@scenario("the cookie goes when the session's time is over")
def over():
    c, base = client(), env("SHORT")
    get(c, base, "/put")
    max_age = next(k.expires for k in c.cookies) - time.time()
    true(max_age <= 2, f"the cookie is to live for {max_age} s")
    time.sleep(3)
    last = get(c, base, "/get")
    same(last.request.headers.get("cookie"), None, "what was sent")


@scenario("the cookie is not sent to another host name")
def host_only():
    c, base = client(), env("PLAIN")
    get(c, base, "/put?key=k&value=v")
    elsewhere = get(c, base.replace("localhost", "127.0.0.1"), "/get?key=k")
    same(elsewhere.request.headers.get("cookie"), None, "what was sent")
    same(elsewhere.text, "", "the value")


@scenario("over https: the default cookie is kept")
def secure_over_tls():
    c, base = client(), env("TLS")
    get(c, base, "/put?key=k&value=v")
    cookie = next(iter(c.cookies))
    true(cookie.secure and cookie.has_nonstandard_attr("HttpOnly"), "not Secure and HttpOnly")
    same(get(c, base, "/get?key=k").text, "v", "the value")


@scenario("over https: a `__Host-` cookie is kept")
def prefix_over_tls():
    c, base = client(), env("HOST_TLS")
    get(c, base, "/put?key=k&value=v")
    same([k.name for k in c.cookies], ["__Host-id"], "cookies in the jar")
    same(get(c, base, "/get?key=k").text, "v", "the value")


@scenario("over http://localhost: the default cookie, which is `Secure`")
def secure_over_http():
    return over_http("SECURE")


@scenario("over http://localhost: a `__Host-` cookie")
def prefix_over_http():
    return over_http("HOST")


def over_http(server):
    # http.cookiejar stores it and sends it over https only; it makes no exception for this machine.
    c, base = client(), env(server)
    get(c, base, "/put?key=k&value=v")
    last = get(c, base, "/get?key=k")
    same(last.request.headers.get("cookie"), None, "what was sent")
    return "withheld"


@scenario("header transport: the token goes in `X-Session-Token`, and no cookie")
def header():
    c, base = client(), env("HEADER")
    first = get(c, base, "/put?key=k&value=v")
    same(len(c.cookies), 0, "cookies in the jar")
    mine = first.headers["x-session-token"]
    same(get(c, base, "/get?key=k", headers={"X-Session-Token": mine}).text, "v", "the value")
    same(get(c, base, "/get?key=k", headers={"Authorization": f"Bearer {mine}"}).text, "v", "with Bearer")
    same(get(c, base, "/get?key=k").text, "", "without the header")


run(f"requests {requests.__version__} on Python {platform.python_version()}")
