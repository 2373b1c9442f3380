"""What the Python clients share: scenarios in order, one line for each, and an exit code."""
import os
import traceback

SCENARIOS = []


def env(name):
    """An address of a playground. `run` says what stands behind each."""
    value = os.environ.get(name)
    if not value:
        raise Skip(f"no {name}: TLS needs openssl and python3")
    return value


class Skip(Exception):
    """The scenario cannot run here."""


def scenario(name):
    """Registers a scenario. What it returns, if anything, is a remark for the table."""
    def register(f):
        SCENARIOS.append((name, f))
        return f
    return register


def same(found, expected, what):
    if found != expected:
        raise AssertionError(f"{what}: expected {expected!r}, found {found!r}")


def true(condition, what):
    if not condition:
        raise AssertionError(what)


def run(version, *arguments):
    print(f"version\t{version}", flush=True)
    for name, f in SCENARIOS:
        try:
            remark = f(*arguments)
            print(f"pass\t{name}\t{remark or ''}", flush=True)
        except Skip as e:
            print(f"skip\t{name}\t{e}", flush=True)
        except Exception as e:
            # The scenario's own line, not the helper's that it called.
            frames = traceback.extract_tb(e.__traceback__)
            where = next((x for x in frames if x.name not in ("run", "with_profile")), frames[-1])
            reason = " ".join(f"{type(e).__name__}: {e}".split())
            print(f"FAIL\t{name}\t{os.path.basename(where.filename)}:{where.lineno}: {reason}", flush=True)
