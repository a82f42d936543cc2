"""`brhub`: the command line. Every module here is light to import; what is heavy is imported where it is used."""
