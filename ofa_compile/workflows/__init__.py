"""One function per verb of the command line: options in, result out, progress by callback."""
