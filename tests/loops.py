"""A federation whose nodes sit behind bytes: every request and answer as over a wire, without an engine."""

from isogram import federation
from isogram.federation.link import Link, Lost
from isogram.federation.membership import Quorum
from isogram.federation.remote import Remote, join
from isogram.local.respond import Responder, settings_of


class Loop(Link):
    """Calls responders; `fail` names those that do not answer, and how often from now on."""

    def __init__(self, responders):
        self.responders, self.fail, self.asked = responders, {}, []

    def ask(self, requests, wait, arrived=lambda name: None):
        found = {}
        for name, blob in requests.items():
            self.asked.append((name, blob))
            if self.fail.get(name, 0) > 0:
                self.fail[name] -= 1
                found[name] = Lost("it was unplugged")
                continue
            found[name] = self.responders[name](blob)
            arrived(name)
        return found


def responders(data, config, folder, finish=None):
    """One for each node, each with a folder of its own."""

    def of(name, number):
        def make(run):
            return federation.gather(data, config, run).nodes[number]

        return Responder(name, make, settings_of(config), folder / name, finish)

    names = sorted(node.name for node in data.nodes)
    return {name: of(name, number) for number, name in enumerate(names)}


def away(data, config, folder, *, quorum=None, run="first", link=None, **more):
    """The federation, joined; and its link."""
    link = link or Loop(responders(data, config, folder))
    remote = Remote(link, run, settings_of(config), quorum or Quorum(len(data.nodes)), **more)
    return join(remote, {node.name: node.modality for node in data.nodes}, config), link


def plan(data, config, **more):
    """What a consortium of these nodes agrees on."""
    from isogram.deploy.coordinate import Plan

    sites = {node.name: node.modality for node in data.nodes}
    return Plan(config, sites, data.anchors.source, **({"quorum": Quorum(len(sites)), "wait": 60.0} | more))
