#!/usr/bin/env python3
"""Headless Chromium against the playground, driven by chromedriver over WebDriver, with the standard library alone.
It sets no cookie by hand. What a page does, a page does: redirects, links, EventSource, fetch."""
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

from report import env, run, same, scenario, true

LIMIT = 30


class Driver:
    """chromedriver as a child process."""

    def __init__(self):
        self.process = subprocess.Popen([os.environ.get("CHROMEDRIVER", "chromedriver"), "--port=0"],
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.base = None
        for line in self.process.stdout:
            if "started successfully on port" in line:
                self.base = f"http://127.0.0.1:{line.rstrip().rstrip('.').rsplit(' ', 1)[1]}"
                break
        true(self.base, "chromedriver does not start")
        threading.Thread(target=lambda: self.process.stdout.read(), daemon=True).start()

    def call(self, method, path, body=None):
        data = None if method in ("GET", "DELETE") else json.dumps(body or {}).encode()
        request = urllib.request.Request(self.base + path, data, {"content-type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=2 * LIMIT) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as e:
            error = json.load(e)["value"]
            raise RuntimeError(f"{error['error']}: {error['message'].splitlines()[0]}") from None

    def stop(self):
        self.process.terminate()
        self.process.wait(LIMIT)


class Browser:
    """One run of Chromium on a profile directory. `quit` closes it as a user does, so that it keeps what it would."""

    def __init__(self, driver, profile):
        arguments = ["--headless=new", f"--user-data-dir={profile}", "--no-first-run", "--disable-gpu",
                     "--disable-dev-shm-usage", "--no-proxy-server"]
        if os.geteuid() == 0:
            arguments.append("--no-sandbox")  # Chromium's sandbox refuses to run as root
        options = {"args": arguments}
        if os.environ.get("CHROMIUM"):
            options["binary"] = os.environ["CHROMIUM"]
        # The certificate is made for this run; nothing about cookies depends on who signed it.
        wanted = {"browserName": "chrome", "acceptInsecureCerts": True, "goog:chromeOptions": options,
                  "timeouts": {"pageLoad": LIMIT * 1000, "script": LIMIT * 1000}}
        self.driver = driver
        made = driver.call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.session = f"/session/{made['sessionId']}"
        self.version = made["capabilities"]["browserVersion"]

    def call(self, method, path, body=None):
        return self.driver.call(method, self.session + path, body)

    def goto(self, url):
        """As if typed into the address bar. Gives the text of the page."""
        self.call("POST", "/url", {"url": url})
        return self.text()

    def script(self, code, *arguments):
        return self.call("POST", "/execute/sync", {"script": code, "args": arguments})

    def script_async(self, code, *arguments):
        return self.call("POST", "/execute/async", {"script": code, "args": arguments})

    def text(self):
        return self.script("return document.body ? document.body.innerText : ''")

    def cookies(self):
        """All that the page's site may see, HttpOnly ones as well: the driver asks the browser, not the page."""
        return self.call("GET", "/cookie")

    def tab(self):
        return self.call("GET", "/window")

    def new_tab(self):
        handle = self.call("POST", "/window/new", {"type": "tab"})["handle"]
        self.switch(handle)
        return handle

    def switch(self, handle):
        self.call("POST", "/window", {"handle": handle})

    def until(self, what, code):
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            if value := self.script(code):
                return value
            time.sleep(0.05)
        raise AssertionError(f"not within {LIMIT} s: {what}")

    def listen(self):
        """Opens an EventSource on the page that is shown, and waits until it is connected."""
        self.script("""
            window.heard = [];
            const events = new EventSource('/events');
            events.onopen = () => window.heard.push('open');
            events.addEventListener('revoked', () => { window.heard.push('revoked'); events.close(); });
        """)
        self.until("the stream is open", "return window.heard.includes('open')")

    def heard_the_end(self):
        self.until("the event `revoked`", "return window.heard.includes('revoked')")

    def quit(self):
        self.driver.call("DELETE", self.session)


def profile(f):
    """Runs a scenario with a function that starts Chromium on a profile of the scenario's own."""
    def with_profile(driver):
        with tempfile.TemporaryDirectory(prefix="sessile-browser-", ignore_cleanup_errors=True) as directory:
            started = []

            def start(name="profile"):
                started.append(Browser(driver, os.path.join(directory, name)))
                return started[-1]

            try:
                return f(start)
            finally:
                for browser in started:
                    try:
                        browser.quit()
                    except RuntimeError:
                        pass  # the scenario has closed it
    return with_profile


def the_token(browser, name="session"):
    found = [c["value"] for c in browser.cookies() if c["name"] == name]
    return found[0] if found else None


def elsewhere(url):
    """The same server under a host name that is another site to browsers."""
    return url.replace("localhost", "127.0.0.1")


@scenario("a value comes back with the cookie")
@profile
def keeps(start):
    b, base = start(), env("PLAIN")
    b.goto(base + "/put?key=k&value=v%201")
    same(len(b.cookies()), 1, "cookies")
    same(b.goto(base + "/get?key=k"), "v 1", "the value")


@scenario("destroy removes the cookie")
@profile
def destroys(start):
    b, base = start(), env("PLAIN")
    b.goto(base + "/put?key=k&value=v")
    true(the_token(b), "no cookie to begin with")
    b.goto(base + "/destroy")
    same(b.cookies(), [], "cookies")
    same(b.goto(base + "/get?key=k"), "", "the value")


@scenario("login gives a new token, and the old one is dead")
@profile
def logs_in(start):
    b, base = start(), env("PLAIN")
    b.goto(base + "/put?key=cart&value=book")
    before = the_token(b)
    b.goto(base + "/login?owner=chromium-login")
    after = the_token(b)
    true(before and after and before != after, "the token is the same as before")
    same(b.goto(base + "/get?key=cart"), "book", "the cart")
    same(len(json.loads(b.goto(base + "/sessions"))), 1, "sessions of the owner")
    thief = urllib.request.Request(base + "/get?key=cart", headers={"cookie": f"session={before}"})
    with urllib.request.urlopen(thief, timeout=LIMIT) as answer:
        same(answer.read(), b"", "the cart with the old token")


@scenario("a flash message is read once, after the redirect")
@profile
def flashes(start):
    b, base = start(), env("PLAIN")
    shown = json.loads(b.goto(base + "/flash?level=success&message=Saved%20%E2%9C%93&to=/flashes"))
    same(b.call("GET", "/url"), base + "/flashes", "the address")
    same([(f["level"], f["message"]) for f in shown], [("success", "Saved ✓")], "messages")
    same(json.loads(b.goto(base + "/flashes")), [], "messages of the next page")


@scenario("remembered: the login outlives a restart")
@profile
def remembered(start):
    b, base = start(), env("BRIEF")
    b.goto(base + "/login?owner=chromium-remembered")
    b.goto(base + "/remember?on=true")
    b.quit()
    b = start()
    same(len(json.loads(b.goto(base + "/sessions"))), 1, "sessions of the owner")
    true(the_token(b), "the cookie is gone")


@scenario("not remembered: the login ends with the restart")
@profile
def forgotten(start):
    for base, remember in ((env("BRIEF"), None), (env("PLAIN"), "/remember?on=false")):
        b = start()
        b.goto(base + "/login?owner=chromium-forgotten")
        if remember:
            b.goto(base + remember)
        b.goto(base + "/put?key=k&value=v")
        same(b.goto(base + "/get?key=k"), "v", "the value before")
        b.quit()
        b = start()
        same(b.goto(base + "/get?key=k"), "", "the value")
        same(b.cookies(), [], "cookies")
        b.quit()


@scenario("logout in one tab ends the other tab's event stream")
@profile
def one_tab_logs_out(start):
    b, base = start(), env("PLAIN")
    b.goto(base + "/login?owner=chromium-tabs")
    first = b.tab()
    b.listen()
    second = b.new_tab()
    b.goto(base + "/destroy")
    b.switch(first)
    b.heard_the_end()
    b.switch(second)
    same(b.cookies(), [], "cookies")


@scenario("logout everywhere ends another device's stream, and its cookie opens nothing")
@profile
def all_log_out(start):
    base = env("PLAIN")
    phone, laptop = start("phone"), start("laptop")
    phone.goto(base + "/login?owner=chromium-devices")
    phone.goto(base + "/put?key=mail&value=old")
    laptop.goto(base + "/login?owner=chromium-devices")
    same(len(json.loads(laptop.goto(base + "/sessions"))), 2, "sessions of the owner")
    phone.listen()
    laptop.goto(base + "/logout-everywhere")
    phone.heard_the_end()
    same(phone.goto(base + "/get?key=mail"), "", "the value on the phone")
    dead = the_token(phone)
    phone.goto(base + "/put?key=mail&value=new")
    true(the_token(phone) not in (None, dead), "a dead token was taken up again")


@scenario("the cookie goes when the session's time is over")
@profile
def over(start):
    b, base = start(), env("SHORT")
    b.goto(base + "/put")
    time.sleep(3)
    same(b.cookies(), [], "cookies")


@scenario("the cookie is not sent to another host name")
@profile
def host_only(start):
    b, base = start(), env("PLAIN")
    b.goto(base + "/put?key=k&value=v")
    same(b.goto(elsewhere(base) + "/get?key=k"), "", "the value")


@scenario("over https: the default cookie is kept")
@profile
def secure_over_tls(start):
    b, base = start(), env("TLS")
    b.goto(base + "/put?key=k&value=v")
    same(b.goto(base + "/get?key=k"), "v", "the value")
    kept = [(c["secure"], c["httpOnly"], c["sameSite"]) for c in b.cookies()]
    same(kept, [(True, True, "Lax")], "Secure, HttpOnly, SameSite")


@scenario("over https: a `__Host-` cookie is kept")
@profile
def prefix_over_tls(start):
    b, base = start(), env("HOST_TLS")
    b.goto(base + "/put?key=k&value=v")
    same(b.goto(base + "/get?key=k"), "v", "the value")
    same([c["name"] for c in b.cookies()], ["__Host-id"], "cookies")


@scenario("over http://localhost: the default cookie, which is `Secure`")
@profile
def secure_over_http(start):
    return over_http(start(), env("SECURE"))


@scenario("over http://localhost: a `__Host-` cookie")
@profile
def prefix_over_http(start):
    return over_http(start(), env("HOST"))


def over_http(b, base):
    # Chromium takes localhost for trustworthy, so a developer's machine needs no `insecure_http`.
    b.goto(base + "/put?key=k&value=v")
    same(b.goto(base + "/get?key=k"), "v", "the value")
    return "kept"


@scenario("header transport: the token goes in `X-Session-Token`, and no cookie")
@profile
def header(start):
    b, base = start(), env("HEADER")
    b.goto(base + "/healthz")
    found = b.script_async("""
        const done = arguments[0];
        (async () => {
            const first = await fetch('/put?key=k&value=v');
            const token = first.headers.get('X-Session-Token');
            const value = await (await fetch('/get?key=k', {headers: {'X-Session-Token': token}})).text();
            const bare = await (await fetch('/get?key=k')).text();
            return [token && token.length > 20, value, bare];
        })().then(done, e => done(['error', String(e)]));
    """)
    same(found, [True, "v", ""], "token, value with it, value without")
    same(b.cookies(), [], "cookies")


@scenario("scripts cannot read the cookie (`HttpOnly`)")
@profile
def http_only(start):
    b, base = start(), env("PLAIN")
    b.goto(base + "/put?key=k&value=v")
    true(the_token(b), "no cookie to begin with")
    same(b.script("return document.cookie"), "", "document.cookie")


@scenario("a request that another site causes carries no cookie (`SameSite=Lax`)")
@profile
def cross_site(start):
    b, base = start(), env("PLAIN")
    same(b.goto(base + "/count"), "1", "the count")
    mine = the_token(b)
    b.goto(elsewhere(base) + "/healthz")
    fetched = b.script_async("""
        const done = arguments[1];
        fetch(arguments[0], {mode: 'no-cors', credentials: 'include'}).then(r => done(r.type), e => done(String(e)));
    """, base + "/count")
    same(fetched, "opaque", "the other site's request")
    same(b.goto(base + "/count"), "2", "the count")
    same(the_token(b), mine, "the cookie: the other site has replaced it")


@scenario("a link from another site carries the cookie (`SameSite=Lax`)")
@profile
def link(start):
    b, base = start(), env("PLAIN")
    b.goto(base + "/put?key=k&value=v")
    b.goto(elsewhere(base) + "/healthz")
    b.script("""
        const link = document.createElement('a');
        link.href = arguments[0];
        document.body.append(link);
        link.click();
    """, base + "/get?key=k")
    b.until("the link is followed", f"return location.href === {json.dumps(base + '/get?key=k')}"
            " && document.readyState === 'complete'")
    same(b.text(), "v", "the value")


def main():
    # So that no browser stays behind when the time is up.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    driver = Driver()
    try:
        with tempfile.TemporaryDirectory(prefix="sessile-browser-", ignore_cleanup_errors=True) as directory:
            browser = Browser(driver, directory)
            version = browser.version
            browser.quit()
        run(f"Chromium {version}", driver)
    finally:
        driver.stop()


main()
