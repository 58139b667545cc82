// SPDX-License-Identifier: MIT

// A model of one key of a redis::Group: processes ask, lead, follow and die, leases expire, and
// what the server keeps for a while goes away. SPIN walks through all interleavings of its steps.
// Run it with
//
//   tests/model/check                     # EVIDENCE_LONG=1: the larger configurations, too
//
// What is modelled. Each label is a step, or a part of one. A step is what the server does in one
// command (detail/redis_lease.hpp has them), together with what the process that asked for it does
// before or after that no other can tell apart. PROCESSES processes ask ASKS times each, each time
// with a new token. A leader's `fn` writes to a resource, after any stall; with FENCE, the resource
// refuses a fence smaller than one that it has seen. MISHAPS things in all go wrong, at any step,
// of the KINDS below.
//
// What is not: other keys, callers inside a process (group.pml has them), what is run without a
// server, durations, the renewal of leases (one that is renewed does not expire, that is all), a
// server that comes back with an older state, the bytes of a payload, exceptions of `fn` (they
// travel as values do), and lost answers to XREAD and FORGET: to ask again changes nothing.
//
// What must hold is in the assertions. A process that is stuck is found as an invalid end state; an
// XREAD does end without an entry, but here only if the next TAKE has something new to say.
// Processes differ only by number, so the model walks only through executions in which their first
// steps come in the order of their numbers.
//
// FAULT_... plants a fault in the model; each must be found.
//
// To read the model: in an atomic sequence, a jump to a label in the middle of one goes on with the
// step, and a jump to a label before one ends it. Where a `skip` comes first, it is for the former.

// What goes wrong, as bits of KINDS.
#define FORGET 1    // the key is forgotten
#define EXPIRE 2    // the lease of a process that is alive expires: it has stalled
#define CRASH 4     // a process dies; if it was to ask again, it has been started again
#define LOSE 8      // the server's answer is lost; the process asks again for the same
#define LATE 16     // a TAKE is late: the process asks again, and then the server gets it
#define RESTART 32  // the server is restarted and has nothing
#define ABANDON 64  // all callers of the leader's process leave; `fn` goes on
#define GARBLE 128  // an outcome does not decode
#define LINGER 256  // an outcome goes away before all who wait for it have read it
// No mishap: the lease of a dead process expires, or an outcome goes away for which nobody waits.

#ifndef KINDS
#define KINDS 511
#endif
#ifndef MISHAPS
#define MISHAPS 0
#endif
#ifndef ASKS
#define ASKS 1
#endif
#ifndef FENCE
#define FENCE 1
#endif
#define PROCESSES 3

#ifdef FAULT_retry_with_new_token
#define TOKENS (PROCESSES * (ASKS + 1))
#else
#define TOKENS (PROCESSES * ASKS)
#endif
#define NONE 0  // no token, no process: both are numbered from 1
#define BIT(process) (1 << (process - 1))
#define MAY(kind) (mishaps > 0 && (KINDS & kind))
#define UNDISTURBED ((KINDS & ~LOSE) == 0)  // to lose an answer excuses nothing

// Outcomes of a call.
#define UNSET 0
#define VALUE 1
#define ABANDONED 2
#define GARBLED 3

// Answers of PUBLISH; 0: nobody else waits.
#define SHARED 1
#define LOST 2

// What a lease is to its call, whatever the server has of it.
#define HELD 1
#define FORGOTTEN 2

typedef Call {  // by its token
  // On the server.
  bit forgotten;           // there is forgotten:token
  bit forgotten_followed;  // it has the mark
  unsigned entry : 2;      // the outcome in its stream
  // On the way there: a TAKE that nobody waits for, and whom it names.
  bit late;
  byte late_waited;
  // For the assertions.
  unsigned fate : 2;
  bit kept;            // its process leads by it, or asks whether it does
  bit told;            // the server has told another process of it
  bit gone;            // its lease has expired, its outcome has gone away, or the server forgot
  unsigned asked : 3;  // who asked before its outcome was published, and still does
};

Call call[TOKENS + 1];  // call[NONE] has nothing
byte lease = NONE;      // whose it is
bit followed;           // it has the mark
byte clock = 0;         // of the server
byte seen = 0;          // the greatest fence that the resource has seen
byte mishaps = MISHAPS;
byte started = 0;
byte ended = 0;
// For the assertions.
byte held = 0;        // leases that are HELD
byte owed = 0;        // leases taken and not executed yet, if UNDISTURBED
byte leads = 0;       // how many have been told to lead
byte newest = 0;      // the last of these that has written to the resource
unsigned asking : 3;  // who is in a Do

// ---- The server

inline Release(t) {
  assert(lease == t);  // a late leader deletes nothing of others'
  lease = NONE; followed = 0
}

inline EndForgotten(t) { call[t].forgotten = 0; call[t].forgotten_followed = 0 }

// The lease of call t ends, in truth.
inline EndLease(t) { held = held - (call[t].fate == HELD); call[t].fate = NONE }

// The script that TAKE is, for token t. It answers t if t leads, or else whose outcome t waits for.
inline TakeScript(t, waited, answer) {
  if
#ifndef FAULT_own_lease_not_known
  :: lease == t -> answer = t
#endif
#ifndef FAULT_own_forgotten_lease_not_known
  :: call[t].forgotten -> answer = t
#endif
#ifndef FAULT_own_outcome_not_known
  :: call[t].entry != UNSET -> answer = t  // t has landed: nobody waits for this answer
#endif
  :: else ->
    if
#ifndef FAULT_forgotten_not_followed
    :: call[waited].forgotten ->
TellForgotten:
      call[waited].forgotten_followed = 1; call[waited].told = 1; answer = waited
#endif
#ifndef FAULT_stream_not_checked
    :: call[waited].entry != UNSET ->
TellOutcome:
      answer = waited
#endif
    :: else ->
      if
#ifdef FAULT_take_without_nx
      :: true ->
#else
      :: lease == NONE ->
#endif
SetLease:
        lease = t; followed = 0; answer = t;
        assert(call[t].fate == NONE);
        call[t].fate = HELD; call[t].told = 0; held++;
        assert(held == 1);  // one holder
        owed = owed + UNDISTURBED;
        assert(owed <= 1)  // the lease before was executed
      :: lease != NONE ->
TellHolder:
#ifndef FAULT_mark_not_atomic
        followed = 1;
#endif
        call[lease].told = call[lease].told || lease != t;
        answer = lease
      fi;
      // Who was told of a call gets its outcome, and does not execute nor wait for another.
      assert(waited == NONE || answer == waited || call[waited].gone)
    fi
  fi
}

inline AddEntry(t, outcome) {
  assert(call[t].fate != NONE);  // a late leader publishes nothing
  call[t].entry = outcome;
  call[t].asked = asking & ~BIT(((t - 1) % PROCESSES + 1))
}

// ---- A process

proctype Process(byte me) {
  byte asks = ASKS;
  byte token = NONE;
  byte holder = NONE;  // whose outcome it waits for
  bit there;           // it was told that there is one
  byte fence = 0;
  byte lead = 0;
  byte outcome = UNSET;
  byte answer = 0;
  byte i = 0;

Take:
  atomic {
    if
    :: token == NONE && started + 1 >= me ->
      started = (started < me -> me : started);
      token = (ASKS - asks) * PROCESSES + me;
      asking = asking | BIT(me)
    :: token != NONE
    fi;
    call[token].kept = 1;
    if
    :: MAY(LATE) && !call[token].late ->
      mishaps--; call[token].late = 1; call[token].late_waited = holder; goto Take
    :: true
    fi;
    TakeScript(token, holder, answer);
    if
    :: MAY(LOSE) ->
      mishaps--;
      answer = 0;
#ifdef FAULT_retry_with_new_token
      token = ASKS * PROCESSES + me;
#endif
      goto Take
    :: MAY(CRASH) -> goto Crash
    :: true
    fi;
    if
    :: answer == token ->
      clock++; fence = clock; leads++; lead = leads; holder = NONE; answer = 0;
      goto Write
    :: else ->
      holder = answer; there = (call[holder].entry != UNSET); call[token].kept = 0; answer = 0
    fi
  }
#ifdef FAULT_mark_not_atomic
  atomic { followed = (lease == holder -> 1 : followed) }
#endif
#ifdef FAULT_only_new_entries_read
  if
  :: call[holder].entry != UNSET -> call[holder].entry == UNSET
  :: else
  fi;
#endif
Read:
  atomic {
    if
    :: call[holder].entry != UNSET ->
      assert(call[holder].asked & BIT(me));  // not a cache
      if
#ifdef FAULT_garbled_returned
      :: call[holder].entry != ABANDONED ->
#else
      :: call[holder].entry == VALUE ->
#endif
        assert(call[holder].entry == VALUE);  // whole
        goto Return
      :: else -> holder = NONE; goto Take
      fi
    :: call[holder].entry != UNSET && !there -> goto Take  // XREAD had just ended
    :: call[holder].entry == UNSET && !(lease == holder && followed) &&
#ifndef FAULT_forgotten_not_followed
        !(call[holder].forgotten && call[holder].forgotten_followed) &&
#endif
        true -> goto Take
    fi
  }

Write:
  atomic {
    if
    :: outcome == UNSET && MAY(ABANDON) -> mishaps--; outcome = ABANDONED; goto PublishScript
    :: MAY(CRASH) -> goto Crash
    :: true
    fi;
    owed = owed - UNDISTURBED;
    if
#ifndef FAULT_fence_not_checked
    :: FENCE && fence < seen ->
Refused:
      skip
#endif
    :: else ->
      if
      :: lead < newest ->
Overtaken:
        assert(!FENCE)  // no older write lands after a newer one
      :: else
      fi;
      seen = fence; newest = lead
    fi;
    if
    :: outcome == ABANDONED -> goto Return
    :: else
    fi
  }
Publish:
  atomic {
    if
    :: outcome == UNSET -> outcome = VALUE
    :: outcome == UNSET && MAY(GARBLE) -> mishaps--; outcome = GARBLED
    :: outcome == UNSET && MAY(CRASH) -> goto Crash
    :: outcome != UNSET
    fi;
PublishScript:
    if
    :: lease == token ->
      answer = followed;
      Release(token)
    :: lease != token && call[token].forgotten ->
PublishForgotten:
      answer = call[token].forgotten_followed;
      EndForgotten(token)
    :: else ->
      assert(call[token].fate == NONE);  // it was late, or asks again
      answer = (call[token].entry != UNSET -> SHARED : LOST);
#ifdef FAULT_release_without_compare
      if
      :: lease != NONE -> Release(token)
      :: else
      fi;
#endif
#ifdef FAULT_publish_without_compare
      AddEntry(token, outcome);
#endif
      goto Published
    fi;
#ifdef FAULT_release_before_entry
    goto AddTheEntry
  }
AddTheEntry:
  atomic {
#endif
    if
    :: answer == SHARED -> AddEntry(token, outcome)
    :: else
    fi;
    EndLease(token);
Published:
    assert(answer == LOST || answer == call[token].told);  // `shared`
    answer = 0;
    if
    :: MAY(LOSE) -> mishaps--; goto Publish
    :: MAY(CRASH) -> goto Crash
    :: outcome == ABANDONED -> goto Write
    :: outcome != ABANDONED
    fi;
Return:
    assert(call[token].fate == NONE || (KINDS & LATE));  // who has left is not waited for
    goto End
  }
  atomic {
    skip;
Crash:
    mishaps--;
End:
    call[token].kept = 0; call[token].told = 0; asking = asking & ~BIT(me);
    i = 1;
    do
    :: i <= TOKENS -> call[i].asked = call[i].asked & asking; i++
    :: else -> break
    od;
    // So that states that differ only in what is over are one.
    i = 0; token = NONE; holder = NONE; there = 0; fence = 0; lead = 0; outcome = UNSET; answer = 0;
    asks--;
    if
    :: asks > 0 -> goto Take
    :: else -> ended++
    fi
  }
}

// ---- What befalls token t

proctype Time(byte t) {
  byte answer = 0;

endIdle:
  atomic {
    if
#ifndef FAULT_lease_without_expiry
    :: lease == t && (!call[t].kept || MAY(EXPIRE)) ->
Expire:
      mishaps = mishaps - call[t].kept; call[t].gone = 1;
      EndLease(t);
      Release(t)
#endif
    :: call[t].forgotten && (!call[t].kept || MAY(EXPIRE)) ->
ExpireForgotten:
      mishaps = mishaps - call[t].kept; call[t].gone = 1;
      EndLease(t);
      EndForgotten(t)
    :: call[t].entry != UNSET && (call[t].asked == 0 || MAY(LINGER)) ->
Linger:
      mishaps = mishaps - (call[t].asked != 0); call[t].gone = 1;
      call[t].entry = UNSET; call[t].asked = 0
    :: call[t].late ->
TakeLate:
      TakeScript(t, call[t].late_waited, answer);
      answer = 0; call[t].late = 0; call[t].late_waited = NONE
    fi;
    goto endIdle
  }
}

// ---- Who forgets the key and restarts the server

proctype Outsider() {
  byte i = 0;

endIdle:
  atomic {
    if
    :: lease != NONE && MAY(FORGET) ->
Forget:
#ifndef FAULT_forget_deletes
      call[lease].forgotten = 1; call[lease].forgotten_followed = followed;
#endif
      mishaps--; held--; call[lease].fate = FORGOTTEN;
      lease = NONE; followed = 0
    :: MAY(RESTART) ->
Restart:
      mishaps--; lease = NONE; followed = 0;
#ifdef FAULT_fence_forgotten_at_restart
      clock = 0;
#endif
      i = 1;
      do
      :: i <= TOKENS ->
        call[i].gone = (call[i].gone || call[i].fate != NONE || call[i].entry != UNSET);
        EndLease(i);
        EndForgotten(i);
        call[i].entry = UNSET; call[i].asked = 0; i++
      :: else -> break
      od;
      i = 0
    fi;
    goto endIdle
  }
}

// Never ends; so no process before it is taken off SPIN's list, which would only be one more step.
proctype Last() {
endLast:
  false
}

init {
  byte i = 1;

  atomic {
    do
    :: i <= TOKENS ->
      run Time(i);
      if
      :: i <= PROCESSES -> run Process(i)
      :: else
      fi;
      i++
    :: else -> break
    od;
    run Outsider();
    run Last();
    i = 0
  }
  atomic {
    ended == PROCESSES;
    assert(owed == 0)  // no lease without an execution
  }
}
