package mme;

import com.amazonaws.ml.mms.wlm.Model;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;

/**
 * The registered models by name, in the place of ModelManager.models.
 *
 * <p>A model is let in if its name and folder are allowed: where it has no worker (initial_workers=0), nobody else asks.
 *
 * <p>A thread that is set upon one model removes none but that. MMS unregisters a model whose load has failed after it
 * has answered, by its name; by then somebody may have loaded another model by that name.
 */
final class GuardedModels extends ConcurrentHashMap<String, Model> {
    private static final long serialVersionUID = 1L;
    private static final ThreadLocal<Model> ONLY = new ThreadLocal<>();

    private final transient Rules rules;

    GuardedModels(Map<String, Model> models, Rules rules) {
        super(models);
        this.rules = rules;
    }

    /** From here on this thread removes no model of that name but this one. */
    static void removeOnly(Model model) {
        ONLY.set(model);
    }

    @Override
    public Model putIfAbsent(String name, Model model) {
        rules.checkName(name);
        rules.checkFolder(model.getModelDir().toPath());
        return super.putIfAbsent(name, model);
    }

    @Override
    public Model remove(Object name) {
        Model only = ONLY.get();
        if (only == null || !only.getModelName().equals(name)) {
            return super.remove(name);
        }
        return remove(name, only) ? only : null;
    }
}
