package mme;

import com.amazonaws.ml.mms.wlm.Model;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Properties;

/**
 * What a model's serving.properties says about its queue, its batches and how long its workers are waited for: a load
 * call of SageMaker's cannot say it. What the call does say wins; what neither says is the server's (LoadPolicy).
 *
 * <p>frameworks/serving.py has the same names and ranges, and refuses the load of a model with a bad value. Such a value
 * counts as not given here.
 */
final class ServingProperties {
    private static final String NAME = "serving.properties";
    private static final int LONGEST_BYTES = 64 * 1024; // as frameworks/properties.py
    private static final int DEFAULT_BATCH_SIZE = 1; // of a load call that does not say
    private static final int DEFAULT_BATCH_DELAY_MS = 100;
    private static final int LONGEST_TIMEOUT_S = 86400;
    private static final int LONGEST_IDLE_S = 31_536_000;
    private static final int MOST_WORKERS = 1024;
    private static final int WORKER_ENDS_S = 2; // a worker that has taken too long ends itself: zygote/time_limits.py

    private final Properties given = new Properties();
    private final LoadPolicy policy;

    ServingProperties(Path folder, LoadPolicy policy) {
        this.policy = policy;
        Path file = folder.resolve(NAME);
        if (!Files.isRegularFile(file)) { // a pipe, say, which nobody may ever write to
            return;
        }
        try (InputStream stream = Files.newInputStream(file)) {
            given.load(new ByteArrayInputStream(stream.readNBytes(LONGEST_BYTES)));
        } catch (IOException | IllegalArgumentException e) {
            given.clear(); // not to be read, or an escape that is none
        }
    }

    int queueSize() {
        return number("job_queue_size", 1, 1_000_000, policy.queueSize);
    }

    /** What the model says counts more than what the server does: its most bounds the server's least. */
    int leastWorkers() {
        if (policy.areWorkersFixed) {
            return policy.minWorkers;
        }
        int least = number("minWorkers", 0, MOST_WORKERS, policy.minWorkers);
        return Math.max(1, Math.min(least, number("maxWorkers", 1, MOST_WORKERS, MOST_WORKERS)));
    }

    int mostWorkers() {
        if (policy.areWorkersFixed || !policy.autoscale) {
            return leastWorkers();
        }
        return Math.max(leastWorkers(), number("maxWorkers", 1, MOST_WORKERS, policy.maxWorkers));
    }

    int maxIdleS() {
        return number("max_idle_time", 0, LONGEST_IDLE_S, policy.maxIdleS);
    }

    /** Of a model that MMS has made by a load call, and nobody knows yet. */
    void applyTo(Model model) {
        if (model.getBatchSize() == DEFAULT_BATCH_SIZE) {
            model.setBatchSize(number("batch_size", 1, 1024, policy.batchSize));
        }
        if (model.getMaxBatchDelay() == DEFAULT_BATCH_DELAY_MS) {
            model.setMaxBatchDelay(number("max_batch_delay", 0, 3_600_000, policy.batchDelayMs));
        }
        if (model.getResponseTimeoutSeconds() == policy.responseTimeoutS) {
            int loadS = number("option.model_loading_timeout", 1, LONGEST_TIMEOUT_S, policy.loadTimeoutS);
            int answerS = number("option.predict_timeout", 1, LONGEST_TIMEOUT_S, policy.answerTimeoutS);
            int longestS = Math.max(loadS, answerS) + WORKER_ENDS_S;
            model.setResponseTimeoutSeconds(Math.max(policy.responseTimeoutS, longestS));
        }
    }

    private int number(String name, int lowest, int highest, int otherwise) {
        String value = given.getProperty(name);
        if (value == null || !value.trim().matches("[0-9]{1,9}")) {
            return otherwise;
        }
        int number = Integer.parseInt(value.trim());
        return number < lowest || number > highest ? otherwise : number;
    }
}
