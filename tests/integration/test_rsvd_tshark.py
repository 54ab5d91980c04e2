"""Wireshark's dissector of MS-RSVD reads the server's answers without a
malformed mark, and finds every operation in them."""

import subprocess
import time
import unittest

import rsvd
from rsvd import IGNORE, PREEMPT, RESERVE


class Dissected(rsvd.Case):

    def test_every_operation(self):
        path = self.server.directory + '/capture'
        capture = subprocess.Popen(
            ['dumpcap', '-q', '-i', 'lo', '-w', path, '-f',
             'tcp port %d' % self.server.port],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(1.5)
        self.assertIsNone(capture.poll(), 'dumpcap does not run')
        # A connection of the capture's own: the tree must be seen connected.
        disk, other = self.other(), self.other()
        disk.tunnel(rsvd.INITIAL_INFO)
        disk.tunnel(rsvd.CHECK_CONNECTION)
        disk.tunnel(rsvd.DISK_INFO, bytes(56))
        disk.tunnel(rsvd.VALIDATE, bytes(56))
        disk.read_status(1 << 40, 512)
        disk.tunnel(rsvd.SRB_STATUS, b'\1' + bytes(27))
        self.good(disk.scsi([0x25], room=8))
        self.good(disk.scsi([0x12, 0, 0, 0, 96], room=96))
        self.good(disk.pr_out(IGNORE, 0, 0, 1))
        self.good(disk.pr_out(RESERVE, 5, 1))
        self.conflict(other.scsi([0x2A, 0, 0, 0, 0, 0, 0, 0, 1], bytes(512)))
        self.good(other.pr_out(IGNORE, 0, 0, 2))
        self.good(other.pr_out(PREEMPT, 5, 2, 1))
        self.sense(0x062A05, disk.scsi([0]))
        disk.keys()
        disk.fsctl(rsvd.QUERY_SUPPORT, b'', 8)
        disk.close()
        other.close()
        time.sleep(1)
        capture.terminate()
        capture.wait(20)

        def tshark(*arguments):
            done = subprocess.run(
                ['tshark', '-r', path, '-d', 'tcp.port==%d,nbss' %
                 self.server.port] + list(arguments), text=True,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            return done.stdout.split('\n')[:-1]
        # What the server says; the dissector stumbles over the parameter
        # list of PERSISTENT RESERVE OUT, which the client sends.
        self.assertEqual([], tshark(
            '-Y', '_ws.malformed && rsvd && smb2.flags.response == 1'))
        seen = tshark('-Y', 'rsvd && smb2.flags.response == 1', '-T', 'fields', '-e',
                      'rsvd.svhdx_operation_code')
        codes = {int(word, 0) for line in seen for word in line.split(',')
                 if word}
        self.assertLessEqual(set(range(0x02001001, 0x02001007)), codes)


if __name__ == '__main__':
    unittest.main()
