package mme;

import com.amazonaws.ml.mms.wlm.Job;
import java.util.ArrayList;
import java.util.HashMap;
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
 */
final class Batch extends LinkedHashMap<String, Job> {
    private static final long serialVersionUID = 1L;

    private final transient Map<String, Job> scaledDown = new HashMap<>(); // given to who scales the worker down

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
    public synchronized Job put(String id, Job job) {
        return super.put(id, job);
    }

    @Override
    public synchronized Job remove(Object id) {
        Job job = super.remove(id);
        return job == null ? scaledDown.remove(id) : job;
    }

    @Override
    public synchronized void clear() {
        super.clear();
    }

    /** The requests that no worker has seen, in their order. They are out of the batch then. */
    synchronized List<Job> takeCollected() {
        List<Job> jobs = new ArrayList<>(values());
        super.clear();
        jobs.removeIf(Job::isControlCmd);
        return jobs;
    }
}
