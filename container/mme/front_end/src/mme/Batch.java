package mme;

import com.amazonaws.ml.mms.wlm.Job;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.Map;
import java.util.Set;

/**
 * The requests that a worker works on, by id, in the place of BatchAggregator.jobs (MMS-14). MMS removes from the
 * map while it walks over its keys or entries, which fails after the first: the others of a batch that had failed
 * as a whole were answered 500, whatever the reason was, and their worker was replaced. Here it walks over a copy.
 */
final class Batch extends LinkedHashMap<String, Job> {
    private static final long serialVersionUID = 1L;

    @Override
    public Set<String> keySet() {
        return new LinkedHashSet<>(new ArrayList<>(super.keySet()));
    }

    @Override
    public Set<Map.Entry<String, Job>> entrySet() {
        return new LinkedHashSet<>(new ArrayList<>(super.entrySet()));
    }
}
