// A declarative Jenkinsfile without Jenkins: reads it as strictly as the syntax is (a directive that is not known, or
// not known where it stands, is an error) and runs what it says: agents are recorded, shell steps really run.
//
//   groovy jenkinsfile.groovy JENKINSFILE FACTS.json
//
// FACTS: {"env": {...}, "params": {...}, "causes": ["TimerTrigger"]}. One JSON document a line on stdout; what steps
// say goes to stderr. Ends with 1 if the build failed, with 2 if the file cannot be read.
import groovy.json.JsonOutput
import groovy.json.JsonSlurper
import org.codehaus.groovy.control.CompilerConfiguration

class Wrong extends RuntimeException { Wrong(String what) { super(what) } }
class StepFailed extends RuntimeException { StepFailed(String what) { super(what) } }

class Build {
    static Map env = [:], params = [:]
    static List causes = []
    static boolean failed = false
    static void tell(Map event) { System.out.println(JsonOutput.toJson(event)); System.out.flush() }
}

// What a closure's words are looked up in; nothing else is.
abstract class Words {
    def take(Closure body) {
        body.delegate = this
        body.resolveStrategy = Closure.DELEGATE_FIRST
        body()
        this
    }
    def methodMissing(String name, given) { throw new Wrong("${this.class.simpleName}: there is no ${name}") }
    def propertyMissing(String name) {
        if (name == 'env') return new EnvNames()
        if (name == 'none' || name == 'any') return name
        if (Build.env.containsKey(name)) return Build.env[name]
        throw new Wrong("${this.class.simpleName}: there is no ${name}")
    }
}
class EnvNames { def propertyMissing(String name) { Build.env[name] } }

class Pipeline extends Words {
    Agent agent; Map environment = [:]; List stages; Post post = new Post(); Set seen = []
    void once(String name) { if (!seen.add(name)) throw new Wrong("${name} stands twice") }
    void agent(String where) { once('agent'); agent = new Agent(kind: where) }
    void agent(Closure body) { once('agent'); agent = new Agent().take(body) }
    void options(Closure body) { once('options'); new Options().take(body) }
    void parameters(Closure body) { once('parameters'); new Parameters().take(body) }
    void triggers(Closure body) { once('triggers'); new Triggers().take(body) }
    void environment(Closure body) { once('environment'); Build.env << new Environment().take(body).values }
    void stages(Closure body) { once('stages'); stages = new Stages().take(body).found }
    void post(Closure body) { once('post'); post.take(body) }
}
class Environment extends Words {
    Map values = [:]
    void setProperty(String name, value) { if (name == 'values') this.@values = value else values[name] = "$value".toString() }
}
class Options extends Words {
    void disableConcurrentBuilds() {}
    void timeout(Map given) { if (given.keySet() != ['time', 'unit'] as Set) throw new Wrong("timeout ${given}") }
    void timestamps() {}
    void buildDiscarder(given) {}
    def logRotator(Map given) { given }
}
class Parameters extends Words {
    void booleanParam(Map given) {
        if (given.keySet() != ['name', 'defaultValue', 'description'] as Set) throw new Wrong("booleanParam ${given}")
        Build.env[given.name] = "${Build.params.getOrDefault(given.name, given.defaultValue)}".toString()
    }
}
class Triggers extends Words { void cron(String when) { Build.tell(event: 'cron', when: when) } }
class Agent extends Words {
    String kind = ''; Map given = [:]
    void label(String name) { kind = kind ?: 'label'; given.label = name }
    void docker(Closure body) { kind = 'docker'; given << new Container(needs: ['image']).take(body).values() }
    void dockerfile(Closure body) { kind = 'dockerfile'; given << new Container(needs: ['filename']).take(body).values() }
}
class Container extends Words {
    List needs; Map found = [:]
    static final Map ALLOWED = [image: ['image', 'label', 'args'],
                                filename: ['filename', 'dir', 'label', 'args', 'additionalBuildArgs']]
    def methodMissing(String name, given) {
        if (!(name in ALLOWED[needs[0]]) || given.size() != 1) throw new Wrong("an agent has no ${name}")
        found[name] = "${given[0]}".toString()
    }
    Map values() { if (!needs.every { found[it] }) throw new Wrong("an agent needs ${needs}"); found }
}
class When extends Words {
    boolean holds = true
    void triggeredBy(String cause) { holds &= cause in Build.causes }
    void branch(String name) { holds &= Build.env.BRANCH_NAME == name }
    void changeRequest() { holds &= Build.env.CHANGE_ID != null }
    void not(Closure body) { holds &= !new When().take(body).holds }
}
class Stages extends Words {
    List found = []
    void stage(String name, Closure body) { found << [name: name, body: body] }
}
class Stage extends Words {
    Agent agent; boolean holds = true; Closure steps; List stages; Closure matrix; Post post = new Post(); Set seen = []
    void once(String name) { if (!seen.add(name)) throw new Wrong("${name} stands twice in a stage") }
    void agent(String where) { once('agent'); agent = new Agent(kind: where) }
    void agent(Closure body) { once('agent'); agent = new Agent().take(body) }
    void when(Closure body) { once('when'); holds = new When().take(body).holds }
    void steps(Closure body) { once('content'); steps = body }
    void stages(Closure body) { once('content'); stages = new Stages().take(body).found }
    void matrix(Closure body) { once('content'); matrix = body }
    void post(Closure body) { once('post'); post.take(body) }
}
class Post extends Words { // in the order in which Jenkins runs them; others are not used here
    Closure always, success, failure
    void always(Closure body) { always = body }
    void success(Closure body) { success = body }
    void failure(Closure body) { failure = body }
}
class Matrix extends Words {
    List axes = []; Closure agentBody; List stages
    void axes(Closure body) { axes = new Axes().take(body).found }
    void agent(Closure body) { agentBody = body } // evaluated in each cell
    void stages(Closure body) { stages = new Stages().take(body).found }
}
class Axes extends Words { List found = []; void axis(Closure body) { found << new Axis().take(body) } }
class Axis extends Words { String name; List values; void name(String n) { name = n }; void values(String... v) { values = v as List } }

class Steps extends Words {
    String stage
    def sh(String script) { shell(script, false) }
    def sh(Map given) {
        if (!(['script', 'returnStdout', 'encoding', 'label', 'returnStatus'].containsAll(given.keySet()))) throw new Wrong("sh ${given}")
        shell(given.script, given.returnStdout ?: false)
    }
    void junit(Map given) { tell('junit', given, ['testResults', 'allowEmptyResults', 'skipPublishingChecks']) }
    void archiveArtifacts(Map given) { tell('archiveArtifacts', given, ['artifacts', 'allowEmptyArchive']) }
    void script(Closure body) { take(body) }
    Map usernamePassword(Map given) { [(given.usernameVariable): 'test-user', (given.passwordVariable): 'test-password'] }
    Map file(Map given) { [(given.variable): '/nonexistent/kubeconfig'] }
    void withCredentials(List bindings, Closure body) {
        Map before = new HashMap(Build.env)
        bindings.each { Build.env << it }
        try { take(body) } finally { Build.env.clear(); Build.env << before }
    }
    def getPullRequest() { [comment: { String text -> Build.tell(event: 'comment', text: text) }] }
    private void tell(String what, Map given, List allowed) {
        if (!allowed.containsAll(given.keySet())) throw new Wrong("${what} ${given}")
        Build.tell([event: what, stage: stage] + given)
    }
    private shell(String script, boolean returns) {
        def builder = new ProcessBuilder(['sh', '-xe', '-c', script])
        Build.env.each { name, value -> if (value != null) builder.environment()[name] = "$value".toString() }
        builder.redirectError(ProcessBuilder.Redirect.INHERIT)
        def process = builder.start()
        process.outputStream.close()
        String said = process.inputStream.getText('UTF-8')
        if (!returns) System.err.print(said)
        int code = process.waitFor()
        Build.tell(event: 'sh', stage: stage, script: script.trim(), code: code)
        if (code) throw new StepFailed("${stage}: script returned exit code ${code}")
        returns ? said : null
    }
}



void runPost(Post post, String stage, boolean stageFailed) {
    for (body in [post.always, stageFailed ? post.failure : post.success]) {
        if (body) new Steps(stage: stage).take(body)
    }
}

void runStage(Map one, boolean hasAgent) {
    if (Build.failed) { Build.tell(event: 'skipped', stage: one.name, why: 'failure'); return }
    Stage stage = new Stage().take(one.body)
    if (!('content' in stage.seen)) throw new Wrong("stage ${one.name} has no steps")
    if (!stage.holds) { Build.tell(event: 'skipped', stage: one.name, why: 'when'); return }
    if (stage.agent) Build.tell([event: 'agent', stage: one.name, kind: stage.agent.kind] + stage.agent.given)
    boolean onAgent = hasAgent || stage.agent && stage.agent.kind != 'none'
    if (stage.steps && !onAgent) throw new Wrong("stage ${one.name} has no agent")
    boolean before = Build.failed
    if (stage.stages) stage.stages.each { runStage(it, onAgent) }
    if (stage.matrix) runMatrix(one.name, stage.matrix, onAgent)
    if (stage.steps) {
        try { new Steps(stage: one.name).take(stage.steps) }
        catch (StepFailed why) { System.err.println(why.message); Build.failed = true }
    }
    runPost(stage.post, one.name, Build.failed && !before)
}

void runMatrix(String name, Closure body, boolean hasAgent) {
    Matrix matrix = new Matrix().take(body)
    if (matrix.axes.size() != 1) throw new Wrong('a matrix of one axis only')
    boolean any = false
    for (value in matrix.axes[0].values) {
        Build.env[matrix.axes[0].name] = value
        Agent agent = matrix.agentBody ? new Agent().take(matrix.agentBody) : null
        if (agent) Build.tell([event: 'agent', stage: "${name} ${value}".toString(), kind: agent.kind] + agent.given)
        Build.failed = false // every cell runs
        for (one in matrix.stages) runStage(one, hasAgent || agent)
        any |= Build.failed
        Build.env.remove(matrix.axes[0].name)
    }
    Build.failed = any
}

def facts = new JsonSlurper().parse(new File(args[1]))
Build.env << facts.env
Build.params << facts.params
Build.causes.addAll(facts.causes)
Pipeline pipeline = null
abstract class Outside extends Script {
    def pipeline(Closure body) { binding.setVariable('found', new Pipeline().take(body)) }
    def methodMissing(String name, given) { throw new Wrong("outside of the pipeline: ${name}") }
    def propertyMissing(String name) {
        if (name == 'env') return new EnvNames()
        if (Build.env.containsKey(name)) return Build.env[name]
        throw new Wrong("there is no ${name}")
    }
}
try {
    def binding = new Binding()
    def kind = new CompilerConfiguration(scriptBaseClass: Outside.name)
    new GroovyShell(this.class.classLoader, binding, kind).evaluate(new File(args[0]))
    pipeline = binding.getVariable('found')
    if (!pipeline.agent || !pipeline.stages) throw new Wrong('a pipeline has an agent and stages')
    boolean hasAgent = pipeline.agent.kind != 'none'
    pipeline.stages.each { runStage(it, hasAgent) }
    if (hasAgent) runPost(pipeline.post, '', Build.failed)
} catch (Wrong | MissingPropertyException | MissingMethodException | groovy.lang.GroovyRuntimeException
         | org.codehaus.groovy.control.CompilationFailedException why) {
    System.err.println("wrong: ${why.message}")
    System.exit(2)
}
Build.tell(event: 'result', result: Build.failed ? 'FAILURE' : 'SUCCESS')
System.exit(Build.failed ? 1 : 0)
