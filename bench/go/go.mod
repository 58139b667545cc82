module singleflight/bench/go

go 1.19

require golang.org/x/sync v0.0.0

// Debian's golang-golang-x-sync-dev installs it there, so no network is needed.
replace golang.org/x/sync => /usr/share/gocode/src/golang.org/x/sync
