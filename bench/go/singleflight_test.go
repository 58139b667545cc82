// SPDX-License-Identifier: MIT

// Package bench measures golang.org/x/sync/singleflight at the work of ../do.bench.cpp: the same
// keys, and a function that costs nothing.
package bench

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sync/singleflight"
)

func keyOf(number int) string { return fmt.Sprintf("user:%016d", number) }

func load() (interface{}, error) { return 42, nil }

// Reports the processor time of an operation too, its share of the garbage collector's included.
// Other processes disturb it less than the clock's.
func measure(b *testing.B, operation func()) {
	b.ReportAllocs()
	before := processorTime(b)
	for i := 0; i < b.N; i++ {
		operation()
	}
	b.ReportMetric(float64(processorTime(b)-before)/float64(b.N), "cpu-ns/op")
}

func processorTime(b *testing.B) int64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return usage.Utime.Nano() + usage.Stime.Nano()
}

func BenchmarkUnshared(b *testing.B) {
	var group singleflight.Group
	key := keyOf(42)
	measure(b, func() { group.Do(key, load) })
}

func BenchmarkDoChan(b *testing.B) {
	var group singleflight.Group
	key := keyOf(42)
	measure(b, func() { <-group.DoChan(key, load) })
}

func BenchmarkSameKey(b *testing.B) {
	var group singleflight.Group
	key := keyOf(42)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			group.Do(key, load)
		}
	})
}

func BenchmarkDistinctKeys(b *testing.B) {
	var group singleflight.Group
	var goroutines atomic.Int32
	b.RunParallel(func(pb *testing.PB) {
		first := int(goroutines.Add(1)) * 1000
		var keys [256]string
		for i := range keys {
			keys[i] = keyOf(first + i)
		}
		for i := 0; pb.Next(); i++ {
			group.Do(keys[i%len(keys)], load)
		}
	})
}
