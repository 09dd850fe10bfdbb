"""The command line: reads arguments, calls the library, formats what comes back. Nothing else prints or exits."""
