#!/usr/bin/env python3
"""On the clients' machine of "./lab cluster up": what holds on several nodes
works through each of them, and what does not is off and says so.  Prints
"N passed, M failed, K skipped" as its last line."""

import glob
import os
import subprocess
import sys
import tempfile
import time
import unittest

ADDRESS = ['10.9.0.%d' % (n + 1) for n in range(3)]
REFUSED = ('persistent handles', 'resilient handles', 'offload',
           'shared disks', 'storage qos', 'remote vss')
USER = 'hvrs%hvrs'


def smbclient(node, share, commands):
    done = subprocess.run(
        ['smbclient', '-U', USER, '//%s/%s' % (ADDRESS[node], share), '-c',
         commands], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=60)
    if done.returncode != 0:
        raise AssertionError(done.stdout)
    return done.stdout


def log(node):
    text = ''
    for name in glob.glob('/lab/nodes/%d/upper/var/log/samba/*' % node):
        if os.path.isfile(name):
            with open(name, errors='replace') as file:
                text += file.read()
    return text


class Cluster(unittest.TestCase):

    def test_a_file_goes_from_node_to_node(self):
        data = os.urandom(300000)
        with tempfile.TemporaryDirectory() as folder:
            with open(folder + '/in', 'wb') as file:
                file.write(data)
            for node in range(3):
                smbclient(node, 'vm', 'put %s/in file%d' % (folder, node))
                smbclient((node + 1) % 3, 'vm', 'get file%d %s/out' %
                          (node, folder))
                with open(folder + '/out', 'rb') as file:
                    self.assertEqual(data, file.read())
                smbclient((node + 2) % 3, 'vm', 'del file%d' % node)

    def test_what_is_not_ready_is_off_with_one_line(self):
        for node in range(3):
            before = len(log(node))
            smbclient(node, 'all', 'ls')
            lines = [line for line in log(node)[before:].split('\n')
                     if 'share all: clustering = yes' in line]
            self.assertEqual(1, len(lines), log(node)[before:])
            for name in REFUSED:
                self.assertIn(name, lines[0])
            self.assertNotIn('trim', lines[0])
            # Nothing of it has begun: no database on any node.
            for place in ('run/samba', 'var/lib/ctdb', 'var/lib/samba',
                          'var/run/samba', 'var/cache/samba'):
                for name in ('handles', 'tokens', 'rsvd', 'sqos', 'fsrvp'):
                    found = glob.glob('/lab/nodes/%d/upper/%s/**/hvrs_%s*' %
                                      (node, place, name), recursive=True)
                    self.assertEqual([], found)

    def test_remote_vss_does_not_start(self):
        done = subprocess.run(
            ['rpcclient', '-s', '/dev/null', '-U', 'hvrsadmin%hvrsadmin',
             ADDRESS[1], '-c', 'fss_is_path_sup vm'], stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=60)
        self.assertNotEqual(0, done.returncode, done.stdout)
        for _ in range(50):
            if 'fsrvp: clustering = yes' in log(1):
                return
            time.sleep(0.1)
        self.fail(done.stdout + log(1))


if __name__ == '__main__':
    result = unittest.TextTestRunner(stream=sys.stdout).run(
        unittest.defaultTestLoader.loadTestsFromTestCase(Cluster))
    bad = len(result.failures) + len(result.errors)
    skipped = len(result.skipped)
    print('%d passed, %d failed, %d skipped' %
          (result.testsRun - bad - skipped, bad, skipped))
    sys.exit(bad != 0)
