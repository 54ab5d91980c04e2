"""Messages of hvrs in smbd's log have a class that can be set apart."""

import unittest

import lab


class DebugClass(unittest.TestCase):
    def test_the_class_is_in_the_log(self):
        server = lab.Server({'vm': ['vfs objects = hvrs',
                                    'hvrs:trim = maybe']},
                            ['debug class = yes'])
        self.addCleanup(server.stop)
        server.connect('vm')
        with open(server.log) as text:
            log = text.read()
        self.assertRegex(log, r'class=hvrs\].*\n.*"hvrs:trim = maybe" is not')

    def told(self, level):
        server = lab.Server({'vm': ['vfs objects = hvrs']},
                            ['debug class = yes', 'log level = ' + level])
        self.addCleanup(server.stop)
        server.connect('vm').create('x.vhdx').close()
        with open(server.log) as text:
            return text.read()

    def test_its_level_is_its_own(self):
        told = self.told('10 hvrs:0')
        self.assertIn('class=vfs', told)
        self.assertNotIn('class=hvrs', told)
        told = self.told('0 hvrs:5')
        self.assertRegex(told, r' 5, [^\n]*class=hvrs.*\n.*share vm has: '
                         r'[^\n]*block cloning')
        self.assertNotIn('class=vfs', told)


if __name__ == '__main__':
    unittest.main()
