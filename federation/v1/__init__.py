"""The wire: package `federation.v1`. The .proto files are the source; everything else here is generated."""
