"""A Hugging Face hub on this machine: the answers that huggingface_hub asks for, from files in memory."""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

from huggingface_hub import close_session


class LocalHub:
    """Repositories by name; what is asked of them is noted in `requests` as (method, path, authorization)."""

    def __init__(self):
        self.branches = {}  # repository -> revision -> commit
        self.commits = {}  # commit -> path -> content
        self.readers = {}  # repository -> the token that may see it
        self.gated = set()  # repositories whose files need a token
        self.cut = set()  # paths of which the second half does not arrive
        self.status = {}  # beginning of a path -> the status that it is answered with
        self.pushes = []  # ('create', repository, visibility) and ('commit', repository, revision, message, files)
        self.requests = []
        hub = self

        class Handler(_Handler):
            state = hub

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        close_session()  # its open connections would still be answered

    def add(self, repo, files, revision="main"):
        """A commit of {path: content} on a branch; returns its hash."""
        commit = hashlib.sha1(repr((repo, sorted(files.items()))).encode()).hexdigest()
        self.commits[commit] = files
        self.branches.setdefault(repo, {})[revision] = commit
        return commit

    def fetched(self):
        """Paths of the files that were sent, sorted."""
        return sorted(unquote(path).split("/resolve/")[1].split("/", 1)[1] for path in self.downloads())

    def downloads(self):
        return [path for method, path, _ in self.requests if method == "GET" and "/resolve/" in path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # which holds a small answer back for 40 ms
    state: LocalHub

    def log_message(self, *args):
        pass

    def send(self, status, body=b"", **headers):
        body = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": len(body)} | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code, message="", **headers):
        self.send(status, {"error": message or code}, X_Error_Code=code, **headers)

    def note(self):
        """The path, after writing down who asked for it; None where this was the answer."""
        path, token = urlsplit(self.path).path, self.headers.get("Authorization")
        self.state.requests.append((self.command, path, token))
        for beginning, status in self.state.status.items():
            if path.startswith(beginning):
                self.send(status, {"error": "as the test wants it"})
                return None
        return path

    # ------------------------------------------------------------ reading

    def do_GET(self):
        path = self.note()
        if path is None:
            return
        api = path.startswith("/api/models/")
        parts = [unquote(part) for part in path.removeprefix("/api/models/" if api else "/").split("/")]
        owned = 1 if parts[0] in self.state.branches or parts[1:2] in (["resolve"], ["revision"], []) else 2
        repo, rest = "/".join(parts[:owned]), parts[owned:]  # the oldest repositories have no owner
        commit = self.find(repo, rest[1] if len(rest) > 1 else "main")
        if commit is None:
            return
        if not api:
            self.file(repo, commit, "/".join(rest[2:]))
        elif rest[:1] == ["tree"]:
            files = self.state.commits[commit]
            folders = {path.rpartition("/")[0] for path in files} - {""}
            entries = [{"type": "file", "path": path, "size": len(files[path]), "oid": "0"} for path in files]
            self.send(200, entries + [{"type": "directory", "path": path, "oid": "0"} for path in sorted(folders)])
        else:
            siblings = [{"rfilename": path} for path in self.state.commits[commit]]
            self.send(200, {"id": repo, "sha": commit, "siblings": siblings})

    do_HEAD = do_GET  # noqa: N815

    def find(self, repo, revision):
        """The commit, or None after an error was sent."""
        reader = self.state.readers.get(repo)
        if repo not in self.state.branches or (reader and self.headers.get("Authorization") != f"Bearer {reader}"):
            return self.refuse(401, "RepoNotFound", "Repository not found")
        branches = self.state.branches[repo]
        commit = branches.get(revision, revision)
        return commit if commit in self.state.commits else self.refuse(404, "RevisionNotFound")

    def file(self, repo, commit, path):
        content = self.state.commits[commit].get(path)
        if repo in self.state.gated and not self.headers.get("Authorization"):
            self.refuse(401, "GatedRepo", "Access to this model is restricted")
        elif content is None:
            self.refuse(404, "EntryNotFound", X_Repo_Commit=commit)
        else:
            sent = content[: len(content) // 2] if self.command == "GET" and path in self.state.cut else content
            self.send(200, sent, ETag=f'"{etag(content)}"', X_Repo_Commit=commit)

    # ------------------------------------------------------------ writing

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.note()
        if path is None:
            return
        if not self.headers.get("Authorization"):
            self.refuse(401, "", "Invalid username or password.")
        elif path == "/api/repos/create":
            self.create(json.loads(body))
        elif "/branch/" in path:
            self.branch(*path.removeprefix("/api/models/").split("/branch/"))
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]
            self.send(200, {"files": modes})
        elif "/commit/" in path:
            self.commit(*path.removeprefix("/api/models/").split("/commit/"), body)
        else:
            self.send(200, {})  # /api/validate-yaml

    def create(self, asked):
        repo = f"{asked['organization'] or 'somebody'}/{asked['name']}"
        status = 409 if repo in self.state.branches else 200
        if status == 200:
            self.state.add(repo, {})
            self.state.pushes.append(("create", repo, asked.get("visibility")))
        self.send(status, {"url": f"{self.state.url}/{repo}"})

    def branch(self, repo, name):
        exists = name in self.state.branches[repo]
        self.state.branches[repo].setdefault(name, self.state.branches[repo]["main"])
        self.send(409 if exists else 200, {})

    def commit(self, repo, revision, body):
        lines = [json.loads(line) for line in body.splitlines()]
        added = {x["value"]["path"]: base64.b64decode(x["value"]["content"]) for x in lines if x["key"] == "file"}
        before = self.state.commits[self.state.branches[repo][revision]]
        commit = self.state.add(repo, before | added, revision)
        self.state.pushes.append(("commit", repo, revision, lines[0]["value"]["summary"], added))
        self.send(200, {"commitUrl": f"{self.state.url}/{repo}/commit/{commit}", "commitOid": commit})


def etag(content):
    return hashlib.sha1(content).hexdigest()
