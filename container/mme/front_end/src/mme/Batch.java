package mme;

import com.amazonaws.ml.mms.wlm.Job;
import java.util.ArrayList;
import java.util.Collections;
import java.util.HashMap;
import java.util.IdentityHashMap;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * The requests that a worker works on, by id, in the place of BatchAggregator.jobs. MMS removes from the map while it
 * walks over its keys or entries, which fails after the first: the others of a batch that had failed as a whole were
 * answered 500, whatever the reason was, and their worker was replaced. Here it walks over a copy (MMS-14).
 *
 * <p>A worker that ends while it still collects a batch leaves it here: {@link #takeCollected} (MMS-32). At the same
 * time another thread may scale the worker down, which asks for the entries. Each request goes to one of the two.
 *
 * <p>A worker may end before it has begun what it was sent, as the connection learns: {@link #sessionHasEnded}. What
 * MMS answers 500 then is kept instead: {@link #takeNotBegun} (MMS-33). What it takes for a worker that has ended before
 * is nobody's fault: {@link #takeNeverSent}. Its thread takes it where it has yet to hear of the end.
 */
final class Batch extends LinkedHashMap<String, Job> {
    private static final long serialVersionUID = 1L;

    private final transient Map<String, Job> scaledDown = new HashMap<>(); // given to who scales the worker down
    private final transient List<Job> notBegun = new ArrayList<>();
    private final transient List<Job> neverSent = new ArrayList<>();
    private final transient Set<Job> tooLate = Collections.newSetFromMap(new IdentityHashMap<>()); // after the end
    private final transient Turn turn; // null: of nobody
    private boolean isAnswered; // the worker has answered what is in here
    private boolean hasEnded; // nobody begins what is not answered
    private boolean isDisconnected; // nobody is sent what comes from now on

    /** Of nobody. */
    Batch() {
        this(null);
    }

    /** {@code turn}: of the worker whose batches these are; null where nobody takes it back. */
    Batch(Turn turn) {
        this.turn = turn;
    }

    @Override
    public synchronized Set<String> keySet() {
        return new LinkedHashSet<>(new ArrayList<>(super.keySet()));
    }

    /** Called by who scales the worker down, and removes each then. */
    @Override
    public synchronized Set<Map.Entry<String, Job>> entrySet() {
        Set<Map.Entry<String, Job>> entries = new LinkedHashSet<>(new ArrayList<>(super.entrySet()));
        entries.forEach(entry -> scaledDown.put(entry.getKey(), entry.getValue()));
        super.clear();
        return entries;
    }

    @Override
    public Job put(String id, Job job) {
        if (turn != null && job.isControlCmd()) {
            turn.take(); // before our lock, as all that call the turn: it may ask for the entries
        }
        synchronized (this) {
            isAnswered = false;
            if (isDisconnected && !job.isControlCmd()) {
                tooLate.add(job);
            }
            return super.put(id, job);
        }
    }

    /** Called by who answers it. */
    @Override
    public synchronized Job remove(Object id) {
        Job job = super.remove(id);
        if (job == null) {
            return scaledDown.remove(id);
        }
        boolean isTooLate = tooLate.remove(job);
        if (!isTooLate && (!hasEnded || isAnswered || job.isControlCmd())) {
            return job;
        }
        (isTooLate ? neverSent : notBegun).add(job);
        return new Job(null, job.getModelName(), job.getCmd(), job.getPayload()); // of no client
    }

    /** Called by the worker's thread before it waits for the next batch: it may end here (MMS-34). */
    @Override
    public void clear() {
        synchronized (this) {
            super.clear();
        }
        if (turn != null) {
            turn.onIdle();
        }
    }

    /** The worker's answer is there, and is dealt out next. */
    synchronized void isAnswered() {
        isAnswered = true;
    }

    /** The worker has ended, and has not begun what it has not answered. */
    synchronized void sessionHasEnded() {
        hasEnded = true;
        isDisconnected = true;
    }

    /** The connection has ended; what was sent before may have been begun. */
    synchronized void isDisconnected() {
        isDisconnected = true;
    }

    /** The requests that were never sent, in their order. They are out of the batch then. */
    synchronized List<Job> takeCollected() {
        List<Job> jobs = new ArrayList<>(values());
        super.clear();
        jobs.removeIf(Job::isControlCmd);
        return jobs;
    }

    /** The requests that were sent to a worker which ended before it began them, in their order. */
    synchronized List<Job> takeNotBegun() {
        return take(notBegun);
    }

    /** The requests that were taken from the queue when the worker had ended already, in their order. */
    synchronized List<Job> takeNeverSent() {
        return take(neverSent);
    }

    private static List<Job> take(List<Job> from) {
        List<Job> jobs = new ArrayList<>(from);
        from.clear();
        return jobs;
    }
}
