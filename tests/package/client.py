#!/usr/bin/env python3
"""A host whose machine writes on while its server is upgraded: one persistent
handle, 4 KiB at a time, replayed on the handle when the connection is lost.
Arguments: port, folder for "progress" and "stop".  Prints one JSON object."""

import json
import os
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                '..', 'integration'))
import handles  # noqa: E402
import smb2  # noqa: E402

BLOCK = 4096
BLOCKS = 256


def block(n):
    return n.to_bytes(8, 'little') * (BLOCK // 8)


def main():
    port, folder = int(sys.argv[1]), sys.argv[2]

    class Server:
        pass
    Server.port = port
    client = handles.Client(Server, 'vm')
    file = client.open('machine.vhdx', handles.R | handles.H | handles.W,
                       timeout=60000)
    told = {'granted': handles.granted(file), 'reconnects': 0, 'errors': [],
            'longest stall': 0}
    n = 0
    while not os.path.exists(folder + '/stop'):
        n += 1
        begun = time.monotonic()
        while True:
            try:
                file.write(n % BLOCKS * BLOCK, block(n))
                break
            except (ConnectionError, OSError, EOFError) as error:
                if isinstance(error, smb2.StatusError):
                    raise
            while True:
                try:
                    client.connect()
                    break
                except (ConnectionError, OSError, EOFError):
                    if time.monotonic() - begun > 50:
                        raise
                    time.sleep(0.05)
            told['reconnects'] += 1
            file = client.reconnect(file)
        told['longest stall'] = max(told['longest stall'],
                                    time.monotonic() - begun)
        with open(folder + '/progress.new', 'w') as out:
            out.write('%d %d' % (n, told['reconnects']))
        os.rename(folder + '/progress.new', folder + '/progress')
        time.sleep(0.002)
    for i in range(BLOCKS):
        want = n - (n - i) % BLOCKS
        if want > 0 and file.read(i * BLOCK, BLOCK) != block(want):
            told['errors'].append('block %d is not write %d' % (i, want))
    told['writes'] = n
    file.close()
    print(json.dumps(told))


try:
    main()
except Exception as error:
    print(json.dumps({'errors': ['%s: %s' % (type(error).__name__, error)]}))
    sys.exit(1)
