"""The nodes of "./lab cluster", as the clients' machine sees them."""

import glob
import os
import subprocess

ADDRESS = ['10.9.0.%d' % (n + 1) for n in range(3)]
SHARED = '/srv/shared'


def log(node):
    text = ''
    for name in glob.glob('/lab/nodes/%d/upper/var/log/samba/*' % node):
        if os.path.isfile(name):
            with open(name, errors='replace') as file:
                text += file.read()
    return text


def on(node, *command):
    done = subprocess.run(
        ['/hvrs/tests/lab/cluster', 'node-node', str(node), *command],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    if done.returncode != 0:
        raise AssertionError(done.stderr)
    return done.stdout


def cluster(*arguments):
    subprocess.run(['/hvrs/tests/lab/cluster', *arguments], check=True,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                   timeout=90)
