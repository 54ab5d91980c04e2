"""hvrsctl handles: what it tells, and how it ends one.  It asks testparm for
the directories, so this is the lab's own server."""

import json
import os
import shutil
import subprocess
import time
import unittest
import uuid

import handles
import lab
import smb2
from handles import H, R, W, Client
from smb2 import FILE_NOT_AVAILABLE, NAME_NOT_FOUND, OK, StatusError


class LabServer:
    def __init__(self):
        with open('/lab/port') as port:
            self.port = int(port.read())


def hvrsctl(*arguments):
    return subprocess.run(['hvrsctl', 'handles'] + list(arguments),
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True)


class Tool(unittest.TestCase):
    def setUp(self):
        self.server = LabServer()
        self.name = 'hvrs-tool-%s.vhdx' % uuid.uuid4().hex[:8]
        self.addCleanup(lambda: os.path.exists('/srv/xfs/vm/' + self.name) and
                        os.unlink('/srv/xfs/vm/' + self.name))
        self.client = Client(self.server, 'vm')
        self.addCleanup(lambda: self.client.drop())

    def told(self):
        done = hvrsctl('--json')
        self.assertEqual('', done.stderr)
        return [one for one in json.loads(done.stdout)
                if one['file'] == self.name]

    def test_list(self):
        self.assertEqual([], self.told())
        file = self.client.open(self.name, R | H, timeout=100000)
        self.assertEqual(OK, file.lock(5, 10))
        (one,) = self.told()
        self.assertEqual(
            ('persistent', 'open', 'vm', '/srv/xfs/vm',
             'HVRS\\hvrs' if lab.MEMBER else 'hvrs',
             str(uuid.UUID(bytes_le=self.client.guid)), 'RH', 100000,
             [{'start': 5, 'length': 10, 'exclusive': True}]),
            (one['kind'], one['state'], one['share'], one['path'],
             one['user'], one['client'], one['lease'], one['timeout ms'],
             one['locks']))
        self.client.drop()
        for _ in range(100):
            if self.told()[0]['state'] == 'waiting':
                break
            time.sleep(0.02)
        (one,) = self.told()
        self.assertEqual('waiting', one['state'])
        self.assertTrue(90000 < one['left ms'] < 100000, one)
        self.assertIn(self.name, hvrsctl().stdout)
        self.client.connect()
        file = self.client.reconnect(file)
        self.assertEqual('open', self.told()[0]['state'])
        file.close()
        self.assertEqual([], self.told())

    def test_close_one_that_is_open(self):
        file = self.client.open(self.name, sharing=0)
        done = hvrsctl('close', self.told()[0]['id'])
        self.assertEqual(('', 0), (done.stderr, done.returncode))
        self.assertEqual([], self.told())
        with self.assertRaises(StatusError) as caught:
            file.write(0, b'x')
        self.assertEqual(smb2.FILE_CLOSED, caught.exception.status)

    def test_close_one_that_waits(self):
        file = self.client.open(self.name, sharing=0)
        self.client.drop()
        other = Client(self.server, 'vm')
        self.addCleanup(other.drop)
        for _ in range(100):
            if self.told()[0]['state'] == 'waiting':
                break
            time.sleep(0.02)
        with self.assertRaises(StatusError) as caught:
            other.tree.create(self.name)
        self.assertEqual(FILE_NOT_AVAILABLE, caught.exception.status)
        done = hvrsctl('close', self.told()[0]['id'])
        self.assertEqual(('', 0), (done.stderr, done.returncode))
        other.tree.create(self.name).close()
        self.client.connect()
        self.assertEqual(NAME_NOT_FOUND, self.client.reconnect_status(file))

    def test_wrong_arguments(self):
        self.assertEqual(1, hvrsctl('close', 'nothing').returncode)
        self.assertEqual(1, hvrsctl('close', 'ffffffff1').returncode)
        self.assertEqual(2, hvrsctl('--all').returncode)


if __name__ == '__main__':
    unittest.main()
